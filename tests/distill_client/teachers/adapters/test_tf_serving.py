"""TensorFlow Serving's REST API, against a server that answers in its documented shape."""

import base64
import io
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pydantic import ValidationError

from distill_client.errors import TeacherProtocolError, TeacherRefused
from distill_client.teachers.manners.patience import Retryable
from tests.distill_client.teachers.adapters.vendor import (
    CLASSES,
    HTML,
    IMAGES,
    ROWS,
    Asked,
    Reply,
    Vendor,
    adapter_of,
    ask,
)

AVAILABLE = {"model_version_status": [{"version": "1", "state": "AVAILABLE", "status": {"error_code": "OK"}}]}


@dataclass
class Served:
    """A model of TensorFlow Serving; what it says of a batch may be replaced."""

    reply: Any = None
    status: int = 200
    state: Any = None
    input_name: str | None = None

    def __call__(self, asked: Asked) -> Reply:
        if asked.method == "GET":
            return Reply(AVAILABLE if self.state is None else self.state)
        if self.reply is not None:
            return Reply(self.reply, self.status)
        inputs = asked.json["examples" if asked.path.endswith(":classify") else "instances"]
        files = [each[self.input_name] if self.input_name else each for each in inputs]
        pixels = [np.array(Image.open(io.BytesIO(base64.b64decode(each["b64"])))) for each in files]
        assert np.array_equal(np.stack(pixels), IMAGES)
        if asked.path.endswith(":classify"):
            return Reply(
                {"result": [[[name, score] for name, score in zip(CLASSES, row, strict=True)] for row in ROWS]}
            )
        return Reply({"predictions": ROWS.tolist()})


def adapter(theirs: Vendor, **keys: Any) -> Any:
    return adapter_of(theirs.url, "tf-serving", **{"model": "m", "images_per_call": 8, **keys})


def test_encoded_files(theirs: Vendor) -> None:
    theirs.answer = Served()
    answer = ask(adapter(theirs), theirs.url)
    assert answer.values == pytest.approx(ROWS)
    assert [asked.path for asked in theirs.asked] == ["/v1/models/m", "/v1/models/m:predict"]
    assert "signature_name" not in theirs.asked[1].json


def test_named_input_version_and_signature(theirs: Vendor) -> None:
    theirs.answer = Served(input_name="image_bytes")
    ask(adapter(theirs, input_name="image_bytes", model_version=7, signature_name="serving_bytes"), theirs.url)
    assert theirs.asked[1].path == "/v1/models/m/versions/7:predict"
    assert theirs.asked[1].json["signature_name"] == "serving_bytes"


def test_classify(theirs: Vendor) -> None:
    theirs.answer = Served(input_name="image")
    assert ask(adapter(theirs, method="classify"), theirs.url).values == pytest.approx(ROWS)


def test_classify_without_names_gives_places(theirs: Vendor) -> None:
    theirs.answer = Served({"result": [[[str(at), score] for at, score in enumerate(row)] for row in ROWS]})
    assert ask(adapter(theirs, method="classify"), theirs.url).values == pytest.approx(ROWS)


@pytest.mark.parametrize("layout", ["nhwc", "nchw", "flat"])
def test_arrays_of_bytes(theirs: Vendor, layout: str) -> None:
    theirs.answer = Served({"predictions": ROWS.tolist()})
    ask(adapter(theirs, input="UINT8", layout=layout), theirs.url)
    expected = {"nhwc": IMAGES, "nchw": IMAGES.transpose(0, 3, 1, 2), "flat": IMAGES.reshape(3, -1)}[layout]
    assert np.array_equal(np.array(theirs.asked[1].json["instances"]), expected)


def test_arrays_of_scaled_numbers(theirs: Vendor) -> None:
    theirs.answer = Served({"predictions": ROWS.tolist()})
    ask(adapter(theirs, input="FP32", scale=2 / 255, mean=[1.0], input_name="x"), theirs.url)
    sent = np.array([each["x"] for each in theirs.asked[1].json["instances"]])
    assert sent == pytest.approx(IMAGES / 127.5 - 1, abs=1e-6)


def test_one_of_several_outputs(theirs: Vendor) -> None:
    theirs.answer = Served({"predictions": [{"p": row.tolist(), "embedding": [1, 2]} for row in ROWS]})
    assert ask(adapter(theirs, output_name="p"), theirs.url).values == pytest.approx(ROWS)
    with pytest.raises(TeacherProtocolError, match="output_name"):
        ask(adapter(theirs), theirs.url)
    with pytest.raises(TeacherProtocolError, match="'q'"):
        ask(adapter(theirs, output_name="q"), theirs.url)


@pytest.mark.parametrize("labels", [[2, 0, 3], [[2], [0], [3]], ["Sandal", "T-shirt/top", "Ankle boot"]])
def test_labels(theirs: Vendor, labels: list[Any]) -> None:
    theirs.answer = Served({"predictions": labels})
    assert ask(adapter(theirs, output="label", answers="label"), theirs.url).values.tolist() == [2, 0, 3]


def test_logits(theirs: Vendor) -> None:
    theirs.answer = Served({"predictions": (np.log(ROWS + 1e-9) - 2).tolist()})
    assert ask(adapter(theirs, output="logits"), theirs.url).values == pytest.approx(ROWS, abs=1e-6)


@pytest.mark.parametrize("token", [b"NaN", b"Infinity", b"-Infinity"])
def test_tokens_that_its_json_may_hold(theirs: Vendor, token: bytes) -> None:
    row = b"[" + b",".join([token] * 4) + b"]"
    theirs.answer = Served(b'{"predictions": [[0.7, 0.2, 0.1, 0.0], ' + row + b", [0, 0, 1, 0]]}")
    values = ask(adapter(theirs), theirs.url).values
    assert np.isnan(values[1]).all()
    assert values[[0, 2]] == pytest.approx(ROWS[[0, 2]])


@pytest.mark.parametrize(
    "content",
    [
        HTML,
        {"error": "x"},
        {"predictions": {}},
        {"predictions": ROWS[:2].tolist()},
        {"predictions": [*ROWS.tolist(), ROWS[0].tolist()]},
        {"predictions": ROWS[:, :3].tolist()},
        {"predictions": [[str(score) for score in row] for row in ROWS]},
        {"predictions": [ROWS[0].tolist(), ROWS[1].tolist(), None]},
        {"predictions": [[True, False, False, False]] * 3},
        {"predictions": [[10**400, 0, 0, 0]] * 3},
        {"predictions": [[float("nan")] * 4] * 3},
        {"predictions": [[3.2, 1.0, 0.5, 0.1]] * 3},
        b'{"predictions": ' + b"[" * 50_000,
    ],
)
def test_what_is_no_answer(theirs: Vendor, content: Any) -> None:
    theirs.answer = Served(content)
    with pytest.raises(TeacherProtocolError) as caught:
        ask(adapter(theirs), theirs.url)
    assert caught.value.charged == "unknown"


@pytest.mark.parametrize(
    "content",
    [
        {"result": [[["Trouser"]]] * 3},
        {"result": [[["Trouser", "1.0"]]] * 3},
        {"result": [[[1, 1.0]]] * 3},
        {"result": [{"Trouser": 1.0}] * 3},
        {"result": [[["Trouser", 1.0]]] * 3},
        {"result": [[["Coat", 1.0], ["a", 0], ["b", 0], ["c", 0]]] * 3},
    ],
)
def test_what_classify_does_not_answer(theirs: Vendor, content: Any) -> None:
    theirs.answer = Served(content)
    with pytest.raises(TeacherProtocolError):
        ask(adapter(theirs, method="classify"), theirs.url)


@pytest.mark.parametrize("labels", [[2, 0, 4], [2, 0, -1], [2, 0, 0.5], [[2, 1], [0, 1], [3, 1]], [2, 0, "Sandal"]])
def test_labels_that_are_no_classes(theirs: Vendor, labels: list[Any]) -> None:
    theirs.answer = Served({"predictions": labels})
    with pytest.raises(TeacherProtocolError):
        ask(adapter(theirs, output="label", answers="label"), theirs.url)


@pytest.mark.parametrize(
    "state", [{"model_version_status": [{"version": "1", "state": "LOADING"}]}, {"model_version_status": []}]
)
def test_a_model_that_is_being_loaded_is_waited_for(theirs: Vendor, state: Any) -> None:
    theirs.answer = Served(state=state)
    with pytest.raises(Retryable, match="no version of the model is available"):
        ask(adapter(theirs), theirs.url)


@pytest.mark.parametrize("state", [{}, HTML, [], {"model_version_status": "AVAILABLE"}])
def test_a_status_that_is_none(theirs: Vendor, state: Any) -> None:
    theirs.answer = Served(state=state)
    with pytest.raises((TeacherProtocolError, Retryable)):
        ask(adapter(theirs), theirs.url)


@pytest.mark.parametrize(("status", "kind"), [(400, TeacherRefused), (404, TeacherRefused), (503, Retryable)])
def test_failures(theirs: Vendor, status: int, kind: type[Exception]) -> None:
    theirs.answer = Served({"error": "Could not find valid device"}, status)
    with pytest.raises(kind) as caught:
        ask(adapter(theirs), theirs.url)
    assert getattr(caught.value, "charged", "") == "no"


@pytest.mark.parametrize(
    ("keys", "says"),
    [
        ({"method": "classify", "input": "FP32"}, "method is classify"),
        ({"output": "label"}, "output is label"),
        ({"output": "logits", "answers": "top-k:1"}, "output is logits"),
        ({"model": "a:b"}, "model"),
    ],
)
def test_files_that_cannot_be(theirs: Vendor, keys: dict[str, Any], says: str) -> None:
    with pytest.raises(ValidationError, match=says):
        adapter(theirs, **keys)
