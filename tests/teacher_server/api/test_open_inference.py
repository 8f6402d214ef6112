"""The Open Inference Protocol under /v2: what is asked and what comes back."""

import base64
import gzip
import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from starlette.testclient import TestClient

from shared.wire import contracts
from shared.wire.contracts import Disclosure, InputSpec
from shared.wire.images import batch_digest, image_digests
from teacher_server.app import create_app
from teacher_server.ledger.keys.issuing import create_key
from teacher_server.ledger.lifecycle.opening import open_database
from teacher_server.settings import TeacherSettings
from teacher_server.teachers.teacher import Teacher
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
from tests.teacher_server.security.schemathesis_hooks import picture
from tests.teacher_server.support import (
    Holder,
    World,
    numbered_images,
    numbers_of,
    require_sound,
)

CLASSES = tuple("abcdefg")


@pytest.fixture
def seeing(ledger_url: str) -> Iterator[dict[str, Holder]]:
    """Holders who may see different things of the same seven classes, among them ties."""

    class Rows:
        classes = 7

        def probabilities(self, images_nhwc: np.ndarray[Any, np.dtype[np.uint8]]) -> Any:
            row = np.array([0.1, 0.3, 0.05, 0.3, 0.2, 0.0, 0.05], np.float32)
            return np.tile(row, (len(images_nhwc), 1))

    teacher = Teacher("numbers", "1", CLASSES, InputSpec(height=8, width=8, channels=1), Rows(), None, None)
    settings = TeacherSettings.load(bundles=(Path("unused"),), ledger=ledger_url)
    database = open_database(ledger_url, create=True)
    with TestClient(create_app(settings, [teacher]), raise_server_exceptions=False) as client:
        yield {
            text: Holder(client, create_key(
                database, name=text.replace(":", "-"), budget=500, disclosure=Disclosure.parse(text), expires_at=None
            )[1])
            for text in ("probabilities", "label", "top-k:2", "top-k:99")
        }  # fmt: skip
    require_sound(database)
    database.close()


# --- what is served -----------------------------------------------------------------------------------------------


def test_health_needs_no_key_and_the_rest_does(world: World) -> None:
    assert world.client.get("/v2/health/live").json() == {"live": True}
    assert world.client.get("/v2/health/ready").json() == {"ready": True, "live": True}
    for path in ("/v2", MODEL, f"{MODEL}/ready", f"{MODEL}/versions/1", f"{MODEL}/versions/1/ready"):
        require_error(world.client.get(path), 401, "unauthenticated")


def test_what_the_server_and_its_teachers_are(world: World) -> None:
    holder = world.holder()
    assert holder.get("/v2").json()["extensions"] == ["binary_tensor_data", "classification"]
    assert holder.get(f"{MODEL}/ready").json() == {"name": "numbers", "ready": True}
    metadata = holder.get(MODEL).json()
    assert metadata == holder.get(f"{MODEL}/versions/1").json()
    assert (metadata["name"], metadata["versions"]) == ("numbers", ["1"])
    assert [(t["name"], t["datatype"], t["shape"]) for t in metadata["inputs"] + metadata["outputs"]] == [
        ("images", "UINT8", [-1, 8, 8, 1]),
        ("probabilities", "FP32", [-1, 3]),
    ]
    assert json.loads(metadata["outputs"][0]["parameters"]["classes"]) == ["zero", "one", "two"]
    for path in ("/v2/models/absent", "/v2/models/absent/ready", f"{MODEL}/versions/2", f"{MODEL}/versions/2/ready"):
        require_error(holder.get(path), 404, "teacher_not_found")
    require_error(holder.get("/v2/repository/index"), 404, "not_found")
    require_error(holder.get(INFER), 405, "method_not_allowed")
    require_error(holder.get(f"{MODEL}/versions/1/infer"), 405, "method_not_allowed")


def test_a_label_key_s_model_has_another_output(seeing: dict[str, Holder]) -> None:
    outputs = seeing["label"].get(MODEL).json()["outputs"]
    assert [(output["name"], output["datatype"], output["shape"]) for output in outputs] == [
        ("labels", "INT64", [-1])
    ]


# --- answers ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("nested", [True, False])
@pytest.mark.parametrize("datatype", ["UINT8", "FP32"])
def test_json_both_ways(world: World, datatype: str, nested: bool) -> None:
    holder = world.holder(budget=10)
    array = numbered_images([7, 65_535, 0, 7])
    tensor = array if datatype == "UINT8" else array.astype(np.float32) / np.float32(255)
    response = infer_json(holder, {"id": "mine", "inputs": [json_input(tensor, nested=nested)]})
    answer, rest = output_of(response)
    assert rest == b""
    assert response.headers["content-type"] == "application/json"
    assert (answer["model_name"], answer["model_version"], answer["id"]) == ("numbers", "1", "mine")
    (output,) = answer["outputs"]
    assert (output["name"], output["datatype"], output["shape"]) == ("probabilities", "FP32", [4, 3])
    assert len(output["data"]) == 12, "flat"
    assert numbers_of(np.reshape(output["data"], (4, 3)).tolist()) == [7, 65_535, 0, 7]
    told = answer["parameters"]
    assert (told["charged"], told["spent"], told["remaining"]) == (4, 4, 6)
    assert told["receipt"] == response.headers[contracts.HEADER_RECEIPT]
    assert told["event_hash"] == response.headers[contracts.HEADER_EVENT_HASH]
    assert ("input_quantised" in told) is (datatype == "FP32")
    event = contracts.EventsPage.model_validate(holder.get("/v1/events").json()).events[-1]
    assert event.input_digest == batch_digest(image_digests(array)), "what is charged is the uint8 image"
    require_sound(world.database)


def test_what_has_no_id_gets_none(world: World) -> None:
    assert "id" not in output_of(infer_numbers(world.holder(), 1))[0]


@pytest.mark.parametrize("where", ["on the output", "on the request", "both, and the output decides"])
def test_binary_both_ways(world: World, where: str) -> None:
    holder = world.holder()
    outputs = [{"name": "probabilities", "parameters": {"binary_data": True}}]
    ways: dict[str, dict[str, Any]] = {
        "on the output": {"outputs": outputs},
        "on the request": {"parameters": {"binary_data_output": True}},
        "both, and the output decides": {"parameters": {"binary_data_output": False}, "outputs": outputs},
    }
    response = infer_binary(holder, binary_request(numbered_images([3, 1, 2]), **ways[where]))
    answer, raw = output_of(response)
    assert response.headers["content-type"] == "application/octet-stream"
    assert int(response.headers["content-length"]) == len(response.content)
    (output,) = answer["outputs"]
    assert (output["parameters"], "data" in output) == ({"binary_data_size": 36}, False)
    assert numbers_of(np.frombuffer(raw, "<f4").reshape(output["shape"])) == [3, 1, 2]


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
def test_a_compressed_request(world: World, encoding: str) -> None:
    content, headers = binary_request(numbered_images([3, 1]))
    squeezed = gzip.compress(content) if encoding == "gzip" else zlib.compress(content)
    response = infer_binary(world.holder(), (squeezed, headers | {"Content-Encoding": encoding}))
    assert numbers_of(np.reshape(output_of(response)[0]["outputs"][0]["data"], (2, 3)).tolist()) == [3, 1]


@pytest.mark.parametrize("shape", [[2], [2, 1]])
def test_encoded_files(world: World, shape: list[int]) -> None:
    holder = world.holder()
    files = [picture(258, kind="PNG"), picture(5, kind="PNG")]
    raw = bytes_tensor(files)
    tensor = {"name": "images", "shape": shape, "datatype": "BYTES", "parameters": {"binary_data_size": len(raw)}}
    from_binary = output_of(infer_binary(holder, binary_body(raw, {"inputs": [tensor]})))[0]["outputs"]
    texts: Any = [base64.b64encode(file).decode() for file in files]
    if len(shape) == 2:
        texts = [[text] for text in texts]
    tensor = {"name": "images", "shape": shape, "datatype": "BYTES", "data": texts}
    from_json = output_of(infer_json(holder, {"inputs": [tensor]}))[0]["outputs"]
    assert from_json == from_binary
    assert numbers_of(np.reshape(from_json[0]["data"], (2, 3)).tolist()) == [258, 5]
    assert holder.spent() == 4


def test_bare_pixels_of_one_image(world: World) -> None:
    holder = world.holder()
    headers = {"Inference-Header-Content-Length": "0"}
    answer, raw = output_of(infer_binary(holder, (numbered_images([77]).tobytes(), headers)))
    assert numbers_of(np.frombuffer(raw, "<f4").reshape(1, 3)) == [77]
    assert answer["outputs"][0]["shape"] == [1, 3]
    for wrong in (b"", numbered_images([1, 2]).tobytes(), picture(1, kind="PNG")):
        text = require_error(infer_binary(holder, (wrong, headers)), 422, "invalid_request")
        assert f"64 bytes, not {len(wrong)}" in text
    assert holder.spent() == 1


# --- what a key may see -------------------------------------------------------------------------------------------


def asked(holder: Holder, *, binary: bool = False, **output: object) -> Any:
    """One image; the output wanted so."""
    name = output.pop("name", "probabilities")
    outputs = [{"name": name, "parameters": {"binary_data": binary, **output}}]
    return infer_numbers(holder, 1, outputs=outputs)


def test_top_k_is_null_in_json_and_nan_in_binary(seeing: dict[str, Holder]) -> None:
    holder = seeing["top-k:2"]
    (output,) = output_of(asked(holder))[0]["outputs"]
    assert output["data"] == [None, 0.3, None, 0.3, None, None, None]
    _, raw = output_of(asked(holder, binary=True))
    values = np.frombuffer(raw, "<f4")
    assert np.flatnonzero(~np.isnan(values)).tolist() == [1, 3]
    assert "NaN" not in asked(holder).text


def test_labels_and_nothing_else(seeing: dict[str, Holder]) -> None:
    holder = seeing["label"]
    (output,) = output_of(infer_numbers(holder, 1, 2))[0]["outputs"]
    assert output == {"name": "labels", "datatype": "INT64", "shape": [2], "data": [1, 1]}
    response = asked(holder, name="labels", binary=True)
    document, raw = output_of(response)
    assert (document["outputs"][0]["datatype"], np.frombuffer(raw, "<i8").tolist()) == ("INT64", [1])
    assert b"0.3" not in response.content
    (output,) = output_of(asked(holder, name="labels", classification=1))[0]["outputs"]
    assert (output["data"], output["datatype"]) == (["nan:1:b"], "BYTES")
    before = holder.spent()
    assert "'labels'" in require_error(asked(holder), 422, "invalid_request")
    require_error(asked(holder, name="labels", classification=2), 422, "invalid_request")
    assert holder.spent() == before


@pytest.mark.parametrize(("who", "visible"), [("probabilities", 7), ("top-k:2", 2), ("top-k:99", 7)])
def test_classification_gives_what_the_key_may_see(seeing: dict[str, Holder], who: str, visible: int) -> None:
    holder = seeing[who]
    ranked = ["0.300000:1:b", "0.300000:3:d", "0.200000:4:e", "0.100000:0:a"]
    ranked += ["0.050000:2:c", "0.050000:6:g", "0.000000:5:f"]
    for count in (1, visible):
        (output,) = output_of(asked(holder, classification=count))[0]["outputs"]
        assert (output["datatype"], output["shape"]) == ("BYTES", [1, count])
        assert output["data"] == ranked[:count], "the first among equals first"
        document, raw = output_of(asked(holder, classification=count, binary=True))
        assert raw == bytes_tensor([text.encode() for text in ranked[:count]])
        assert document["outputs"][0]["parameters"] == {"binary_data_size": len(raw)}
    before = holder.spent()
    text = require_error(asked(holder, classification=visible + 1), 422, "invalid_request")
    assert f"1 to {visible} of 7 classes" in text
    assert holder.spent() == before, "refused before anything was charged"


def test_an_answer_bought_under_another_policy_is_given_as_it_was_bought(world: World) -> None:
    holder = world.holder(disclosure="label")
    first = infer_json(holder, {"inputs": [json_input(numbered_images([9]))]}, Idempotency_Key="once")
    again = infer_json(holder, {"inputs": [json_input(numbered_images([9]))]}, Idempotency_Key="once")
    assert first.content == again.content
    assert again.headers[contracts.HEADER_REPLAYED] == "true"
    assert (holder.spent(), world.classifier.calls) == (1, 1)


# --- refusals: clear, uncharged, unread where nobody may be answered ----------------------------------------------
