"""The client's adapters for others' protocols against our own server: the same images have the same answers."""

from typing import Any

import httpx2
import numpy as np
import pytest
from pydantic import TypeAdapter

from distill_client.errors import BudgetExhausted, TeacherProtocolError, TeacherRefused
from distill_client.teachers.adapters.adapter import Adapter
from distill_client.teachers.adapters.kinds import AnyTeacherFile, make_adapter
from distill_client.teachers.protocol import Answer
from distill_client.teachers.transport import Transport
from tests.contract.world import CLASSES, World, some_images

IMAGES = some_images(5)
V2 = {"kind": "open-inference", "url": "http://testserver", "model": "hash", "images_per_call": 64}
HF = {"kind": "huggingface", "url": "http://testserver/hf/hash"}
DOORS: list[dict[str, Any]] = [
    {**V2, "datatype": "UINT8"},
    {**V2, "datatype": "UINT8", "wire": "json"},
    {**V2, "datatype": "FP32"},
    {**V2, "datatype": "FP32", "wire": "json"},
    {**V2, "datatype": "BYTES"},
    {**V2, "datatype": "BYTES", "wire": "json"},
    {**V2, "datatype": "UINT8", "model_version": "7"},
    HF,
    {**HF, "encoding": "webp"},
    {**HF, "function_to_apply": "softmax"},
]
RANKED = [{**V2, "datatype": "UINT8", "output": "classification", "wire": wire} for wire in ("binary", "json")]


def adapter_of(door: dict[str, Any], answers: str = "probabilities") -> Adapter:
    described = {
        "name": "hash",
        "version": "7",
        "classes": list(CLASSES),
        "image_size": "4x4x1",
        "max_queries": 100,
        "i_have_permission": True,
        "honours_idempotency": True,
        "answers": answers,
    }
    return make_adapter(TypeAdapter(AnyTeacherFile).validate_python(described | door))


def buy(world: World, adapter: Adapter, secret: str, *, key: str = "batch") -> list[Answer]:
    """IMAGES in as few calls as the adapter makes of them."""
    headers = {"Authorization": f"Bearer {secret}"}
    client = httpx2.Client(transport=world.app_client._transport, base_url="http://testserver", headers=headers)
    world.stack.callback(client.close)
    transport = Transport(client)
    if (look := adapter.first_look()) is not None:
        adapter.read_first_look(transport.send(look))
    size = adapter.capabilities.images_per_request_max
    calls = [IMAGES[at : at + size] for at in range(0, len(IMAGES), size)]
    return [
        adapter.read(transport.send(adapter.request(images_nhwc, f"{key}-{at}")), len(images_nhwc))
        for at, images_nhwc in enumerate(calls)
    ]


def values_of(answers: list[Answer]) -> Any:
    return np.concatenate([answer.values for answer in answers])


@pytest.mark.parametrize("disclosure", ["probabilities", "probabilities;decimals=2", "top-k:3", "label"])
@pytest.mark.parametrize("door", DOORS, ids=str)
def test_every_door_gives_the_same_answers(world: World, door: dict[str, Any], disclosure: str) -> None:
    native = world.connect(world.key("native", disclosure=disclosure)).label(IMAGES, "native").values
    if disclosure == "label" and door["kind"] == "open-inference":
        door = {**door, "output": "label"}
    secret = world.key("other", disclosure=disclosure)
    found = values_of(buy(world, adapter_of(door, disclosure), secret))
    assert found.dtype == native.dtype
    assert np.array_equal(found, native, equal_nan=disclosure != "label")
    assert world.connect(secret).usage().spent == len(IMAGES)


@pytest.mark.parametrize("disclosure", ["probabilities", "top-k:3", "label"])
@pytest.mark.parametrize("door", RANKED, ids=str)
def test_the_classification_extension_gives_them_too(world: World, door: dict[str, Any], disclosure: str) -> None:
    native = world.connect(world.key("native", disclosure=disclosure)).label(IMAGES, "native").values
    found = values_of(buy(world, adapter_of(door, disclosure), world.key("other", disclosure=disclosure)))
    assert np.array_equal(found, native, equal_nan=disclosure != "label")


@pytest.mark.parametrize("door", [DOORS[0], HF], ids=str)
def test_a_call_asked_again_is_charged_once(world: World, door: dict[str, Any]) -> None:
    secret, adapter = world.key(), adapter_of(door)
    first = values_of(buy(world, adapter, secret))
    assert np.array_equal(values_of(buy(world, adapter, secret)), first)
    assert world.connect(secret).usage().spent == len(IMAGES)


@pytest.mark.parametrize("door", [DOORS[0], HF], ids=str)
def test_a_budget_that_ends_is_told_apart(world: World, door: dict[str, Any]) -> None:
    secret = world.key(budget=1)
    with pytest.raises(BudgetExhausted):
        buy(world, adapter_of({**door, "images_per_call": 2} if door is not HF else door), secret)
    assert world.connect(secret).usage().spent == (1 if door is HF else 0)


@pytest.mark.parametrize("door", [DOORS[0], HF], ids=str)
def test_a_key_that_is_none(world: World, door: dict[str, Any]) -> None:
    with pytest.raises(TeacherRefused) as caught:
        buy(world, adapter_of(door), "tk_nobody")
    assert caught.value.code == "unauthorised"


def test_a_key_that_sees_less_than_the_file_says_is_no_silent_cut(world: World) -> None:
    secret = world.key(disclosure="top-k:3")
    with pytest.raises(TeacherProtocolError, match='write answers = "top-k:3"'):
        buy(world, adapter_of(HF), secret)
