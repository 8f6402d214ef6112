"""One image through /v1, /v2 and /hf: the same answer, the same digests, one charge under one idempotency key."""

import base64
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from shared.wire import contracts
from shared.wire.contracts import Event, EventsPage
from shared.wire.error_codes import ErrorCode
from shared.wire.images import NPY_MEDIA_TYPE, decode_npy, encode_npy
from teacher_server.errors import Refusal
from tests.teacher_server.api.inference import (
    INFER,
    binary_body,
    binary_request,
    bytes_tensor,
    infer_binary,
    infer_json,
    json_input,
    output_of,
)
from tests.teacher_server.security.schemathesis_hooks import picture
from tests.teacher_server.support import LABELS, Holder, World, numbered_images, require_sound

NUMBER = 258
IMAGE = numbered_images([NUMBER])
PNG = picture(NUMBER, kind="PNG")
BINARY: dict[str, Any] = {"parameters": {"binary_data_output": True}}


def as_npy(holder: Holder, **headers: str) -> Any:
    more = holder.headers(Content_Type=NPY_MEDIA_TYPE, Accept=NPY_MEDIA_TYPE, **headers)
    return holder.client.post(LABELS, content=encode_npy(IMAGE), headers=more)


def as_form(holder: Holder, **headers: str) -> Any:
    more = holder.headers(Accept=NPY_MEDIA_TYPE, **headers)
    return holder.client.post(LABELS, files={"images": ("a.png", PNG, "image/png")}, headers=more)


def as_uint8(holder: Holder, **headers: str) -> Any:
    return infer_binary(holder, binary_request(IMAGE, **BINARY), **headers)


def as_fp32(holder: Holder, **headers: str) -> Any:
    return infer_binary(holder, binary_request((IMAGE / np.float32(255)).astype(np.float32), **BINARY), **headers)


def as_bytes(holder: Holder, **headers: str) -> Any:
    raw = bytes_tensor([PNG])
    tensor = {"name": "images", "shape": [1], "datatype": "BYTES", "parameters": {"binary_data_size": len(raw)}}
    return infer_binary(holder, binary_body(raw, {"inputs": [tensor], **BINARY}), **headers)


def as_json(holder: Holder, **headers: str) -> Any:
    return infer_json(holder, {"inputs": [json_input(IMAGE, nested=True)], **BINARY}, **headers)


def as_raw_file(holder: Holder, **headers: str) -> Any:
    return holder.client.post("/hf/numbers", content=PNG, headers=holder.headers(**headers))


def as_base64(holder: Holder, **headers: str) -> Any:
    document = {"inputs": base64.b64encode(PNG).decode(), "parameters": {"top_k": 3}}
    return holder.client.post("/hf/numbers", json=document, headers=holder.headers(**headers))


DOORS: list[Callable[..., Any]] = [
    as_npy,
    as_form,
    as_uint8,
    as_fp32,
    as_bytes,
    as_json,
    as_raw_file,
    as_base64,
]
THEIR_OWN = {"date", "content-type", "content-length", "inference-header-content-length", "ratelimit"}


def values_of(response: Any) -> bytes:
    """The answer's float32, or of labels int64, as bytes; scores go back to the classes they are of."""
    assert response.status_code == 200, response.text
    if response.headers["content-type"] == NPY_MEDIA_TYPE:
        return decode_npy(response.content).tobytes()
    if response.request.url.path == INFER:
        return output_of(response)[1]
    order = ["zero", "one", "two"]
    entries = response.json()
    if entries[0]["score"] is None:
        return np.array([order.index(entries[0]["label"])], np.int64).tobytes()
    row = np.full(3, np.nan, np.float32)
    for entry in entries:
        row[order.index(entry["label"])] = entry["score"]
    return row.tobytes()


def answers_of(holder: Holder) -> list[Event]:
    events = EventsPage.model_validate(holder.get("/v1/events").json()).events
    return [event for event in events if event.kind == "answer"]


@pytest.mark.parametrize("disclosure", ["probabilities", "top-k:2", "label"])
def test_the_same_answer_and_the_same_digests(world: World, disclosure: str) -> None:
    holder = world.holder(disclosure=disclosure)
    values = {values_of(door(holder)) for door in DOORS}
    assert len(values) == 1, "every byte of it"
    events = answers_of(holder)
    assert len(events) == len(DOORS) == holder.spent(), "each is a new request, and charged"
    assert len({(event.input_digest, event.answer_digest, event.disclosure_digest) for event in events}) == 1
    require_sound(world.database)


@pytest.mark.parametrize("first", DOORS, ids=lambda door: door.__name__)
def test_one_idempotency_key_through_every_door_is_one_charge(world: World, first: Callable[..., Any]) -> None:
    holder = world.holder(budget=1)
    bought = first(holder, Idempotency_Key="once")
    told = {name: value for name, value in bought.headers.items() if name not in THEIR_OWN}
    for door in DOORS:
        again = door(holder, Idempotency_Key="once")
        assert values_of(again) == values_of(bought)
        assert again.headers[contracts.HEADER_REPLAYED] == "true"
        named = {name: value for name, value in again.headers.items() if name not in THEIR_OWN}
        assert named == told | {contracts.HEADER_REPLAYED.lower(): "true"}, "receipt, charge and event are the same"
    assert (holder.spent(), world.classifier.calls, len(answers_of(holder))) == (1, 1, 1)
    require_sound(world.database)


def test_the_same_key_for_another_image_is_refused_at_every_door(world: World) -> None:
    holder = world.holder()
    holder.buy([1], Idempotency_Key="once")
    for door in DOORS:
        response = door(holder, Idempotency_Key="once")
        assert response.status_code == 422
        assert "once" in response.text
    assert holder.spent() == 1


def test_every_door_stops_at_the_same_budget(world: World) -> None:
    holder = world.holder(budget=len(DOORS) - 1)
    statuses = [door(holder).status_code for door in DOORS]
    assert statuses == [200] * (len(DOORS) - 1) + [402], "the last one is Hugging Face's"
    assert [door(holder).status_code for door in DOORS] == [403] * 6 + [402] * 2
    assert holder.spent() == len(DOORS) - 1
    require_sound(world.database)


def test_a_ledger_that_does_not_add_up_sells_at_no_door(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    holder = world.holder()

    def refuse(_: int) -> None:
        raise Refusal(ErrorCode.LEDGER_INCONSISTENT, "it does not add up")

    monkeypatch.setattr(world.app.state.server.consistency, "require_consistent", refuse)
    assert [door(holder).status_code for door in DOORS] == [503] * len(DOORS)
    assert holder.spent() == 0
