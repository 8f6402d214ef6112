"""Exactly once, seen from outside: the same request again, while it runs, after its values expired, restarted."""

import base64
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from sqlalchemy import text

from shared.wire import contracts
from shared.wire.contracts import SIGNING_KEYS_PATH, EventsPage, LabelsAnswer, Receipt, SigningKeys
from shared.wire.images import NPY_MEDIA_TYPE, answer_digest, batch_digest, decode_npy, image_digests
from shared.wire.signatures import is_signed_by, receipt_faults, trusted_keys
from teacher_server.ledger.charging.answers import expire_bodies
from tests.teacher_server.conftest import MakeWorld
from tests.teacher_server.support import (
    Holder,
    NumbersClassifier,
    World,
    numbered_images,
    numbers_of,
    numbers_teacher,
    require_problem,
    require_sound,
)


def forget_values(world: World) -> None:
    assert expire_bodies(world.database, kept_s=86_400, bytes_max=0) > 0


def trusted(world: World) -> dict[str, str]:
    keys = SigningKeys.model_validate(world.client.get(SIGNING_KEYS_PATH).json())
    return trusted_keys(keys.keys, keys.keys[0].fingerprint)


def receipt_in_header(response: Any) -> Receipt:
    encoded = response.headers[contracts.HEADER_RECEIPT]
    return Receipt.model_validate_json(base64.urlsafe_b64decode(encoded + "=" * (-len(encoded) % 4)))


def buy_npy(holder: Holder, numbers: list[int], **headers: str) -> Any:
    response = holder.ask(numbers, Accept=NPY_MEDIA_TYPE, **headers)
    assert response.status_code == 200, response.text
    return response


def test_every_answer_carries_a_receipt_that_anybody_can_verify(world: World) -> None:
    holder = world.holder()
    as_json = holder.ask([1, 2, 3], Idempotency_Key="one")
    as_npy = buy_npy(holder, [4, 5], Idempotency_Key="two")
    in_json = LabelsAnswer.model_validate(as_json.json()).receipt
    assert in_json == receipt_in_header(as_json)
    in_header = receipt_in_header(as_npy)
    for receipt, numbers in ((in_json, [1, 2, 3]), (in_header, [4, 5])):
        assert receipt is not None
        assert receipt_faults(receipt, trusted(world)) == []
        event = receipt.event
        assert (event.format, event.kind, event.images) == (2, "answer", len(numbers))
        assert event.input_digest == batch_digest(image_digests(numbered_images(numbers)))
    assert in_header.event.answer_digest == answer_digest(decode_npy(as_npy.content).astype(np.float32))
    forged = in_header.model_copy(update={"event": in_header.event.model_copy(update={"images": 1})})
    assert receipt_faults(forged, trusted(world)), "a receipt that was changed is no receipt"


def test_the_whole_log_is_signed(world: World) -> None:
    holder = world.holder(budget=2)
    holder.buy([1, 2])
    require_problem(holder.ask([3]), 403, "budget_exhausted")
    page = EventsPage.model_validate(holder.get("/v1/events").json())
    assert [event.kind for event in page.events] == ["create", "answer", "refuse"]
    public = trusted(world)
    for event, signed in zip(page.events, page.signatures, strict=True):
        assert is_signed_by(public[signed.signing_key], event, signed.signature)
        assert not is_signed_by(public[signed.signing_key], event, page.signatures[event.sequence - 2].signature)


def test_the_signing_keys_need_no_key_and_tell_no_secret(world: World) -> None:
    response = world.client.get(SIGNING_KEYS_PATH)
    assert response.status_code == 200
    assert set(response.json()) == {"ledger", "keys"}
    (key,) = response.json()["keys"]
    assert len(bytes.fromhex(key["public_key"])) == 32
    assert (key["retired_at"], key["endorsed_by"], key["endorsement"]) == (None, "", "")


@pytest.mark.parametrize("accept", ["application/json", NPY_MEDIA_TYPE])
def test_a_replay_is_the_same_byte_for_byte_receipt_included(make_world: MakeWorld, accept: str) -> None:
    world = make_world()
    holder = world.holder()
    first = holder.ask([7, 8], Idempotency_Key="one", Accept=accept)
    restarted = Holder(make_world().client, holder.secret)
    for again in (holder, restarted):
        replay = again.ask([7, 8], Idempotency_Key="one", Accept=accept)
        assert replay.content == first.content
        assert replay.headers[contracts.HEADER_RECEIPT] == first.headers[contracts.HEADER_RECEIPT]
        assert replay.headers[contracts.HEADER_REPLAYED] == "true"
        assert contracts.HEADER_RECOMPUTED not in replay.headers
    assert holder.spent() == 2


def test_while_the_first_runs_the_second_is_told_to_ask_again(world: World) -> None:
    holder = world.holder(budget=2)
    world.classifier.may_go_on.clear()
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(holder.ask, [1, 2], Idempotency_Key="one")
        assert world.classifier.waiting.acquire(timeout=30)
        refused = holder.ask([1, 2], Idempotency_Key="one")
        world.classifier.may_go_on.set()
        answered = first.result(timeout=30)
    problem = require_problem(refused, 409, "still_running")
    assert problem["retryable"] is True
    assert holder.ask([1, 2], Idempotency_Key="one").content == answered.content
    assert (holder.spent(), world.classifier.calls) == (2, 1)
    require_sound(world.database)


def test_a_failed_first_request_leaves_the_key_usable(world: World) -> None:
    holder = world.holder()
    world.classifier.fault = RuntimeError("out of memory")
    require_problem(holder.ask([1], Idempotency_Key="one"), 500, "internal")
    world.classifier.fault = None
    assert holder.ask([1], Idempotency_Key="one").status_code == 200
    assert holder.spent() == 1


@pytest.mark.parametrize("disclosure", ["probabilities", "top-k:2", "label"])
def test_expired_values_are_computed_again_uncharged_and_marked(world: World, disclosure: str) -> None:
    holder = world.holder(disclosure=disclosure, budget=3)
    first = buy_npy(holder, [10, 20, 30], Idempotency_Key="one")
    forget_values(world)
    again = buy_npy(holder, [10, 20, 30], Idempotency_Key="one")
    assert (again.headers[contracts.HEADER_RECOMPUTED], again.headers[contracts.HEADER_REPLAYED]) == ("true", "true")
    assert again.headers[contracts.HEADER_RECEIPT] == first.headers[contracts.HEADER_RECEIPT]
    values, stored = (decode_npy(response.content).astype(np.float64) for response in (again, first))
    np.testing.assert_allclose(values, stored, rtol=0, atol=1e-5)
    as_json = holder.ask([10, 20, 30], Idempotency_Key="one")
    assert as_json.headers[contracts.HEADER_RECOMPUTED] == "true"
    assert holder.spent() == 3
    assert world.classifier.calls == 3
    require_problem(holder.ask([10, 20, 31], Idempotency_Key="one"), 422, "idempotency_key_reused")
    require_sound(world.database)


def catalogue_of(world: World) -> Any:
    return world.app.state.server.catalogue


def test_expired_values_of_another_version_that_is_still_served(world: World) -> None:
    holder = world.holder()
    first = holder.buy([10], Idempotency_Key="one")
    forget_values(world)
    other = NumbersClassifier()
    served = catalogue_of(world).all()
    catalogue_of(world).replace([*served, numbers_teacher(other, version="9")])
    again = holder.buy([10], Idempotency_Key="one")
    assert (again.version, again.receipt) == (first.version, first.receipt)
    assert numbers_of(again.probabilities or []) == [10]
    assert other.calls == 0


@pytest.mark.parametrize("change", ["weights", "gone", "disclosure"])
def test_expired_values_that_cannot_be_computed_again_are_gone_and_still_charged_once(
    world: World, change: str
) -> None:
    holder = world.holder()
    holder.buy([10, 11], Idempotency_Key="one")
    forget_values(world)
    if change == "weights":
        changed = [replace(teacher, content_digest="f" * 64) for teacher in catalogue_of(world).all()]
        catalogue_of(world).replace(changed)
    elif change == "gone":
        catalogue_of(world).replace([numbers_teacher(NumbersClassifier(), version="9")])
    else:
        with world.database.writing() as connection:
            connection.execute(text("UPDATE keys SET disclosure = 'label'"))
    calls = world.classifier.calls
    problem = require_problem(holder.ask([10, 11], Idempotency_Key="one"), 410, "answer_expired")
    assert problem["retryable"] is False
    assert (holder.spent(), world.classifier.calls) == (2, calls)
