"""What the Open Inference Protocol's door refuses, naming what is wrong; nothing of it is charged."""

import gzip
import zlib
from typing import Any

import numpy as np
import pytest

from teacher_server.api.json_body import JSON_LISTS_MAX, JSON_VALUES_MAX
from tests.teacher_server.api.inference import (
    INFER,
    MODEL,
    binary_body,
    binary_request,
    bytes_tensor,
    infer_binary,
    infer_json,
    infer_numbers,
    json_input,
    output_of,
    require_error,
)
from tests.teacher_server.api.raw import never, raw_call
from tests.teacher_server.conftest import MakeWorld
from tests.teacher_server.support import (
    World,
    numbered_images,
    numbers_teacher,
    require_sound,
)

ONE = numbered_images([1])
GOOD = json_input(ONE)


@pytest.mark.parametrize(
    ("inputs", "told"),
    [
        ([], "inputs: "),
        ([GOOD, GOOD], "inputs: "),
        ("images", "inputs: "),
        ([{}], "inputs.0.name: "),
        ([GOOD | {"name": "input0"}], "inputs.0.name is 'input0'"),
        ([GOOD | {"datatype": "FP64"}], "inputs.0.datatype is 'FP64'; allowed are UINT8, FP32, BYTES"),
        ([GOOD | {"shape": []}], "inputs.0.shape"),
        ([GOOD | {"shape": [-1, 8, 8, 1]}], "inputs.0.shape.0"),
        ([GOOD | {"shape": [1, 8, 8, 1.0]}], "inputs.0.shape.3"),
        ([GOOD | {"shape": [1, 8, 8, 2**63]}], "inputs.0.shape.3"),
        ([GOOD | {"shape": [1] * 9}], "inputs.0.shape"),
        ([GOOD | {"data": None}], "either data or"),
        ([GOOD | {"parameters": {"binary_data_size": 64}}], "not both"),
        ([json_input(ONE, data=None, parameters={"binary_data_size": 64})], "needs the header"),
        ([GOOD | {"parameters": {"shared_memory_region": "r"}}], "shared_memory_region"),
        ([GOOD | {"parameters": 3}], "inputs.0.parameters"),
        ([GOOD | {"data": "AAAA"}], "inputs.0.data is str"),
        ([GOOD | {"data": {"b64": ""}}], "inputs.0.data is dict"),
        ([GOOD | {"data": [0] * 63 + ["1"]}], "holds str"),
        ([GOOD | {"data": [0] * 63 + [None]}], "holds NoneType"),
        ([GOOD | {"data": [0] * 63 + [True]}], "holds bool"),
        ([GOOD | {"data": [0] * 63 + [1.5]}], "holds float"),
        ([GOOD | {"data": [0] * 63 + [256]}], "holds 256"),
        ([GOOD | {"data": [0] * 63 + [-1]}], "holds -1"),
        ([GOOD | {"data": [0] * 63 + [10**400]}], "hundreds of digits"),
        ([GOOD | {"data": [[0] * 63, [1]]}], "uneven lists"),
        ([GOOD | {"data": [[0] * 8] * 8}], "data has the shape [8, 8]"),
        ([GOOD | {"datatype": "BYTES", "shape": [1], "data": ["no base64!"]}], "element 0: not base64"),
        ([GOOD | {"datatype": "BYTES", "shape": [1], "data": ["é"]}], "element 0: not base64"),
        ([GOOD | {"datatype": "BYTES", "shape": [1], "data": [1]}], "element 0: not base64"),
        ([GOOD | {"datatype": "BYTES", "shape": [2], "data": ["AAAA"]}], "holds 1 elements"),
        ([GOOD | {"datatype": "BYTES", "shape": [1], "data": "AAAA"}], "inputs.0.data is str"),
    ],
)
def test_inputs_that_are_not_usable(world: World, inputs: object, told: str) -> None:
    holder = world.holder()
    assert told in require_error(infer_json(holder, {"inputs": inputs}), 422, "invalid_request")
    assert (holder.spent(), world.classifier.calls) == (0, 0)


@pytest.mark.parametrize(
    ("tensor", "told"),
    [
        (json_input(ONE.astype(np.float32), data=[0.0] * 63 + [1.0000001]), "a value is 1; floats"),
        (json_input(np.zeros((0, 8, 8, 1), np.uint8)), "no images in the request"),
        (json_input(np.zeros((1, 8, 8, 3), np.uint8)), "shape is (1, 8, 8, 3)"),
        (json_input(ONE, shape=[1, 8, 8]), "shape is (1, 8, 8)"),
        (json_input(ONE, shape=[64]), "shape is (64,)"),
        (json_input(np.full((2, 8, 8, 1), 0.5, np.float32), data=[0.5] * 127 + [1.5]), "a value is 1.5"),
        (json_input(np.full((1, 8, 8, 1), 0.5, np.float32), data=[0.5] * 63 + [1e300]), "a value is inf"),
        ({"name": "images", "shape": [0], "datatype": "BYTES", "data": []}, "no image files"),
        ({"name": "images", "shape": [1], "datatype": "BYTES", "data": ["AAAA"]}, "cannot be decoded"),
    ],
)
def test_images_that_are_not_usable(world: World, tensor: dict[str, Any], told: str) -> None:
    holder = world.holder()
    assert told in require_error(infer_json(holder, {"inputs": [tensor]}), 422, "invalid_images")
    assert holder.spent() == 0


def test_the_image_at_fault_is_named(world: World) -> None:
    values = np.full((3, 8, 8, 1), 0.25, np.float32)
    values[2, 0, 0, 0] = -2.1
    text = require_error(infer_binary(world.holder(), binary_request(values)), 422, "invalid_images")
    assert "a value is -2.1; floats are pixels / 255, from 0 to 1 (index=2)" in text
    values[1, 3, 3, 0] = np.nan
    assert "(index=1)" in require_error(
        infer_binary(world.holder("bob"), binary_request(values)), 422, "invalid_images"
    )


@pytest.mark.parametrize(
    ("more", "told"),
    [
        ({"outputs": [{"name": "logits"}]}, "outputs.0.name is 'logits'"),
        ({"outputs": [{"name": "probabilities"}] * 2}, "outputs: "),
        ({"outputs": [{"name": "probabilities", "parameters": {"classification": 0}}]}, "classification"),
        ({"outputs": [{"name": "probabilities", "parameters": {"classification": -1}}]}, "classification"),
        ({"outputs": [{"name": "probabilities", "parameters": {"classification": "2"}}]}, "classification"),
        ({"outputs": [{"name": "probabilities", "parameters": {"binary_data": "yes"}}]}, "binary_data"),
        ({"outputs": [{"name": "probabilities", "parameters": {"shared_memory_region": "r"}}]}, "shared_memory"),
        ({"parameters": {"binary_data_output": 1}}, "parameters.binary_data_output"),
        ({"parameters": []}, "parameters: "),
        ({"id": 3}, "id: "),
        ({"id": "x" * 1025}, "id: "),
    ],
)
def test_forms_that_are_not_given(world: World, more: dict[str, Any], told: str) -> None:
    holder = world.holder()
    assert told in require_error(infer_numbers(holder, 1, **more), 422, "invalid_request")
    assert (holder.spent(), world.classifier.calls) == (0, 0)


def test_what_the_protocol_lets_a_server_ignore_is_ignored(world: World) -> None:
    more: dict[str, Any] = {"parameters": {"priority": 1, "timeout": 5, "mine": "x"}, "unknown": [1]}
    assert output_of(infer_numbers(world.holder(), 4, **more))[0]["parameters"]["charged"] == 1


@pytest.mark.parametrize(
    ("length", "told"),
    [
        ("-1", "'-1'"),
        ("1e3", "'1e3'"),
        ("", "''"),
        ("9" * 30, "'9999"),
        ("100000", "'100000'"),
    ],
)
def test_lengths_of_json_that_are_none(world: World, length: str, told: str) -> None:
    content, headers = binary_request(ONE)
    headers["Inference-Header-Content-Length"] = length.encode().decode("latin-1")
    answer = infer_binary(world.holder(), (content, headers))
    assert told in require_error(answer, 422, "invalid_request")


@pytest.mark.parametrize(
    ("size", "extra", "told"),
    [
        (64, b"x", "binary_data_size is 64; allowed are the 65 that follow"),
        (65, b"", "binary_data_size is 65; allowed are the 64 that follow"),
        (-64, b"", "inputs.0.parameters.binary_data_size"),
        (2**70, b"", "inputs.0.parameters.binary_data_size"),
        (64.0, b"", "inputs.0.parameters.binary_data_size"),
        (60, b"", "binary_data_size is 60"),
    ],
)
def test_sizes_that_do_not_fit_what_came(world: World, size: float, extra: bytes, told: str) -> None:
    tensor = json_input(ONE, data=None, parameters={"binary_data_size": size})
    request = binary_body(ONE.tobytes() + extra, {"inputs": [tensor]})
    assert told in require_error(infer_binary(world.holder(), request), 422, "invalid_request")


@pytest.mark.parametrize(
    ("raw", "shape", "told"),
    [
        (b"\x01\x00\x00", [1], "element 0"),
        (b"\xff\xff\xff\xff", [1], "element 0"),
        (bytes_tensor([b"ab"]) + b"\x05\x00\x00\x00a", [2], "element 1"),
        (bytes_tensor([b"", b""]), [1], "holds 2 elements"),
        (bytes_tensor([b"", b""]), [2, 2], "holds 2 elements"),
        (b"\x00\x00\x00\x00" * 100_000, [2], "holds 3 elements"),
    ],
)
def test_elements_that_do_not_add_up(world: World, raw: bytes, shape: list[int], told: str) -> None:
    tensor = {"name": "images", "shape": shape, "datatype": "BYTES", "parameters": {"binary_data_size": len(raw)}}
    request = binary_body(raw, {"inputs": [tensor]})
    assert told in require_error(infer_binary(world.holder(), request), 422, "invalid_request")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b'{"inputs":' + b"[" * 1_000_000,
        b'{"inputs":' + b"[" * (JSON_LISTS_MAX - 1),
        b'{"inputs":[' * 50_000,
        b'{"inputs":[{"name":"images","shape":[1,8,8,1],"datatype":"UINT8","data":[' + b"9" * 100_000 + b"]}]}",
        b'{"inputs":[{"name":"images","shape":[1],"datatype":"FP32","data":[NaN]}]}',
        b'{"inputs":[{"name":"images","shape":[1],"datatype":"FP32","data":[-Infinity]}]}',
        b'{"inputs":[{"name":"images","shape":[1],"datatype":"FP32","data":[1e999]}]}',
        b'{"inputs":[{"name":"images","shape":[0,9223372036854775807],"datatype":"UINT8","data":[]}]}',
        b'{"inputs":[{"name":"images","shape":[1,1],"datatype":"FP32","data":'
        + b"[" * 150
        + b"1"
        + b"]" * 150
        + b"}]}",
        b'{"id":"\\ud800","inputs":[]}',
        b'\xff\xfe{"inputs":[]}',
    ],
    ids=lambda content: content[:20].decode("latin-1") + f"-{len(content)}",
)
def test_json_that_is_meant_to_hurt(world: World, content: bytes) -> None:
    holder = world.holder()
    for headers in ({"Content-Type": "application/json"}, {"Inference-Header-Content-Length": str(len(content))}):
        response = holder.client.post(INFER, content=content, headers=holder.headers() | headers)
        status = 413 if content.count(b"[") > JSON_LISTS_MAX else 422
        assert len(require_error(response, status, response.headers["x-error-code"])) < 1000
    assert (holder.spent(), world.classifier.calls) == (0, 0)


@pytest.mark.parametrize(
    ("element", "count"), [(b"1", JSON_VALUES_MAX), (b"[]", JSON_LISTS_MAX), (b"{}", JSON_LISTS_MAX)]
)
def test_more_json_than_is_read(world: World, element: bytes, count: int) -> None:
    holder = world.holder()
    content = b'{"inputs":[' + b",".join([element] * count) + b"]}"
    response = holder.client.post(INFER, content=content, headers=holder.headers())
    assert "binary" in require_error(response, 413, "body_too_large")


def test_more_images_than_a_request_may_carry(make_world: MakeWorld) -> None:
    world = make_world(images_per_request_max=3)
    holder = world.holder()
    text = require_error(infer_numbers(holder, 1, 2, 3, 4), 413, "too_many_images")
    assert "images_per_request_max=3" in text
    require_error(infer_json(holder, {"inputs": [GOOD | {"shape": [10**18, 8, 8, 1]}]}), 413, "too_many_images")


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
def test_compressed_bodies_that_are_none_or_grow_too_large(make_world: MakeWorld, encoding: str) -> None:
    world = make_world(body_bytes_max=100_000)
    holder = world.holder()
    pack = gzip.compress if encoding == "gzip" else zlib.compress
    good, headers = binary_request(ONE)
    headers |= {"Content-Encoding": encoding}
    bomb = pack(b"[" * 50_000_000)
    assert len(bomb) < 100_000
    require_error(infer_binary(holder, (bomb, headers)), 413, "body_too_large")
    for content in (good, pack(good)[:-3], pack(good) + b"more", b""):
        assert encoding in require_error(infer_binary(holder, (content, headers)), 422, "invalid_request")
    require_error(infer_binary(holder, (good, headers | {"Content-Encoding": "br"})), 415, "unsupported_media_type")
    assert holder.spent() == 0


@pytest.mark.parametrize("path", [INFER, f"{MODEL}/versions/1/infer", "/hf/numbers", "/hf/numbers/versions/1"])
def test_nobody_s_body_is_read_who_could_not_be_answered(world: World, path: str) -> None:
    json_type = {"Content-Type": "application/json"}
    require_error(raw_call(world, json_type, never(), path=path), 401, "unauthenticated")
    strange = {"Authorization": "Bearer tk-0123456789ab-" + "A" * 43} | json_type
    answer = raw_call(world, strange, never(), path=path)
    require_error(answer, 401, "unauthenticated")
    assert answer.headers["connection"] == "close"
    mine = {"Authorization": f"Bearer {world.holder().secret}"} | json_type
    absent = path.replace("numbers", "absent")
    require_error(raw_call(world, mine, never(), path=absent), 404, "teacher_not_found")
    for more, status, code in (
        ({"Content-Type": "text/html"}, 415, "unsupported_media_type"),
        ({"Content-Encoding": "br"}, 415, "unsupported_media_type"),
        ({"Content-Length": "99999999999"}, 413, "body_too_large"),
        ({"Idempotency-Key": "with space"}, 422, "invalid_idempotency_key"),
    ):
        require_error(raw_call(world, mine | more, never(), path=path), status, code)


def test_a_version_no_longer_served_still_gives_its_answers(world: World) -> None:
    holder = world.holder()
    first = infer_json(holder, {"inputs": [GOOD]}, Idempotency_Key="once")
    catalogue = world.app.state.server.catalogue
    catalogue.replace([numbers_teacher(world.classifier, version="2")])
    again = infer_json(holder, {"inputs": [GOOD]}, Idempotency_Key="once")
    assert again.content == first.content
    catalogue.replace([])
    again = infer_json(holder, {"inputs": [GOOD]}, Idempotency_Key="once")
    assert again.content == first.content
    require_error(infer_json(holder, {"inputs": [GOOD]}), 404, "teacher_not_found")
    assert holder.spent() == 1


def test_an_exhausted_budget_and_a_server_s_failure(world: World) -> None:
    holder = world.holder(budget=2)
    text = require_error(infer_numbers(holder, 1, 2, 3), 403, "budget_exhausted")
    assert "granted=2" in text
    world.classifier.fault = RuntimeError("secret of the model")
    text = require_error(infer_numbers(holder, 1), 500, "internal")
    assert "secret" not in text
    assert holder.spent() == 0
    require_sound(world.database)
