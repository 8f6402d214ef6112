"""Hugging Face's image classification under /hf: one image in, the most probable classes out."""

import base64
import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from shared.wire import contracts
from shared.wire.images import batch_digest, image_digests
from tests.teacher_server.api.inference import require_error
from tests.teacher_server.conftest import MakeWorld
from tests.teacher_server.security.schemathesis_hooks import picture
from tests.teacher_server.support import Holder, World, numbered_images, numbers_teacher, require_sound

PATH = "/hf/numbers"
PNG = picture(30_000, kind="PNG")
TEXT = base64.b64encode(PNG).decode()
SCORES = [{"label": "two", "score": 0.466667}, {"label": "zero", "score": 0.3}, {"label": "one", "score": 0.233333}]


def send(holder: Holder, content: bytes, media_type: str | None, *, path: str = PATH, **headers: str) -> Any:
    more = {"Content-Type": media_type} if media_type else {}
    return holder.client.post(path, content=content, headers=holder.headers(**headers) | more)


def send_json(holder: Holder, document: object, *, path: str = PATH, **headers: str) -> Any:
    return send(holder, json.dumps(document).encode(), "application/json", path=path, **headers)


@pytest.mark.parametrize("media_type", ["image/png", "image/x-whatever", "application/octet-stream", None])
def test_raw_bytes(world: World, media_type: str | None) -> None:
    holder = world.holder(budget=5)
    response = send(holder, PNG, media_type)
    assert (response.status_code, response.json()) == (200, SCORES)
    assert response.headers["content-type"] == "application/json"
    assert (response.headers["images-charged"], response.headers["images-remaining"]) == ("1", "4")
    assert response.headers[contracts.HEADER_RECEIPT]
    event = contracts.EventsPage.model_validate(holder.get("/v1/events").json()).events[-1]
    assert event.input_digest == batch_digest(image_digests(numbered_images([30_000])))


@pytest.mark.parametrize("prefix", ["", "data:image/png;base64,", "DATA:image/svg+xml;base64,"])
def test_base64_in_json(world: World, prefix: str) -> None:
    holder = world.holder()
    assert send_json(holder, {"inputs": prefix + TEXT, "options": {"wait_for_model": True}}).json() == SCORES
    for parameters, count in (
        ({"top_k": 2}, 2),
        ({"top_k": 1, "function_to_apply": "softmax"}, 1),
        ({"top_k": 50}, 3),
        ({"top_k": None, "function_to_apply": None}, 3),
        ({}, 3),
        (None, 3),
    ):
        response = send_json(holder, {"inputs": prefix + TEXT, "parameters": parameters})
        assert response.json() == SCORES[:count]
    assert send_json(holder, {"inputs": TEXT}, path=f"{PATH}/versions/1").json() == SCORES
    assert holder.spent() == 8
    require_sound(world.database)


def test_five_come_unasked_as_from_hugging_face(world: World) -> None:
    class Seven:
        classes = 7

        def probabilities(self, images_nhwc: Any) -> Any:
            return np.full((len(images_nhwc), 7), 1 / 7, np.float32)

    names = tuple("abcdefg")
    seven = replace(numbers_teacher(world.classifier), class_names=names, classifier=Seven())
    world.app.state.server.catalogue.replace([seven])
    holder = world.holder()
    assert [entry["label"] for entry in send(holder, PNG, "image/png").json()] == list(names[:5])
    response = send_json(holder, {"inputs": TEXT, "parameters": {"top_k": 7}})
    assert [entry["label"] for entry in response.json()] == list(names)


def test_a_key_sees_what_it_may(world: World) -> None:
    holder = world.holder(disclosure="label")
    assert send(holder, PNG, "image/png").json() == [{"label": "two", "score": None}]
    holder = world.holder("bob", disclosure="top-k:2")
    response = send_json(holder, {"inputs": TEXT, "parameters": {"top_k": 3}})
    assert response.json() == SCORES[:2]
    assert response.headers["teacher-disclosure"] == "top-k:2"


@pytest.mark.parametrize(
    ("document", "told"),
    [
        ({}, "inputs: "),
        ({"inputs": ""}, "empty"),
        ({"inputs": 3}, "inputs: "),
        ({"inputs": [TEXT]}, "inputs: "),
        ({"inputs": "https://example.org/cat.png"}, "nothing is fetched"),
        ({"inputs": "file:///etc/passwd"}, "nothing is fetched"),
        ({"inputs": "data:image/png," + TEXT}, "allowed are the base64"),
        ({"inputs": "data:text/html;base64," + TEXT}, "allowed are the base64"),
        ({"inputs": TEXT[:-5]}, "allowed are the base64"),
        ({"inputs": "é"}, "allowed are the base64"),
        ({"inputs": "AAAA"}, "cannot be decoded"),
        ({"inputs": TEXT, "parameters": {"top_k": 0}}, "parameters.top_k"),
        ({"inputs": TEXT, "parameters": {"top_k": "2"}}, "parameters.top_k"),
        ({"inputs": TEXT, "parameters": {"top_k": 2.0}}, "parameters.top_k"),
        ({"inputs": TEXT, "parameters": {"topk": 2}}, "parameters.topk"),
        ({"inputs": TEXT, "parameters": {"function_to_apply": "sigmoid"}}, "parameters.function_to_apply"),
        ({"inputs": TEXT, "parameters": []}, "parameters: "),
        ([], "body: "),
    ],
)
def test_requests_that_are_not_usable(world: World, document: object, told: str) -> None:
    holder = world.holder()
    response = send_json(holder, document)
    assert told in require_error(response, 422, response.headers["x-error-code"])
    assert (holder.spent(), world.classifier.calls) == (0, 0)


def test_bodies_that_are_not_usable(world: World) -> None:
    holder = world.holder()
    require_error(send(holder, b"", "image/png"), 422, "invalid_images")
    require_error(send(holder, b"no picture", None), 422, "invalid_images")
    require_error(send(holder, b'{"inputs":' + b"[" * 100_000, "application/json"), 422, "invalid_request")
    require_error(send(holder, b'{"inputs":' + b"[" * 1_000_000, "application/json"), 413, "body_too_large")
    for media_type in ("multipart/form-data", "text/plain", "application/x-npy"):
        text = require_error(send(holder, PNG, media_type), 415, "unsupported_media_type")
        assert "image/*, application/json and application/octet-stream" in text
    require_error(holder.get(PATH), 405, "method_not_allowed")
    require_error(send(holder, PNG, None, path="/hf/absent"), 404, "teacher_not_found")
    require_error(send(holder, PNG, None, path=f"{PATH}/versions/9"), 404, "teacher_not_found")
    assert holder.spent() == 0


def test_nothing_left_is_402_here_and_waiting_is_429(make_world: MakeWorld) -> None:
    world = make_world()
    holder = world.holder(budget=1)
    assert send(holder, PNG, None).status_code == 200
    response = send(holder, PNG, None)
    assert "granted=1" in require_error(response, 402, "budget_exhausted")
    assert response.headers["x-should-retry"] == "false"
    assert "ratelimit" in response.headers


def test_an_answer_given_again_by_a_version_that_is_gone(world: World) -> None:
    holder = world.holder()
    first = send(holder, PNG, None, Idempotency_Key="once")
    world.app.state.server.catalogue.replace([numbers_teacher(world.classifier, version="2")])
    again = send(holder, PNG, None, Idempotency_Key="once")
    assert [entry["score"] for entry in again.json()] == [entry["score"] for entry in first.json()]
    assert [entry["label"] for entry in again.json()] == ["LABEL_2", "LABEL_0", "LABEL_1"], "their names are gone"
    assert (holder.spent(), world.classifier.calls) == (1, 1)
