"""TorchServe, against a server that answers as its image classifier and its KServe envelope do."""

import base64
import io
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

ONE = IMAGES[:1]


def top(row: Any, count: int, *, named: bool = True) -> dict[str, float]:
    """As map_class_to_label: the best first, by name, or by place where there is no index_to_name.json."""
    return {CLASSES[at] if named else str(at): float(row[at]) for at in np.argsort(-row)[:count]}


def classifier(asked: Asked) -> Reply:
    if asked.method == "GET":
        return Reply({"status": "Healthy"})
    if asked.path.startswith("/predictions/"):
        assert asked.headers["content-type"] == "image/png"
        assert np.array_equal(np.array(Image.open(io.BytesIO(asked.content))), IMAGES[0])
        return Reply(top(ROWS[0], 3))
    files = [base64.b64decode(each["data"]) for each in asked.json["instances"]]
    assert np.array_equal(np.stack([np.array(Image.open(io.BytesIO(each))) for each in files]), IMAGES)
    return Reply({"predictions": [top(row, 4, named=False) for row in ROWS]})


def adapter(theirs: Vendor, **keys: Any) -> Any:
    return adapter_of(theirs.url, "torchserve", **{"model": "m", "answers": "top-k:3", **keys})


def test_top_classes_of_one_image(theirs: Vendor) -> None:
    theirs.answer = classifier
    values = ask(adapter(theirs, model_version="2.0"), theirs.url, ONE).values
    assert values[0, :3] == pytest.approx([0.7, 0.2, 0.1])
    assert np.isnan(values[0, 3])
    assert [asked.path for asked in theirs.asked] == ["/ping", "/predictions/m/2.0"]


def test_a_batch_in_kserves_first_protocol(theirs: Vendor) -> None:
    theirs.answer = classifier
    found = adapter(theirs, protocol="kserve-v1", answers="probabilities", images_per_call=8)
    assert ask(found, theirs.url).values == pytest.approx(ROWS)
    assert theirs.asked[-1].path == "/v1/models/m:predict"


def test_scores_in_order(theirs: Vendor) -> None:
    theirs.always({"predictions": ROWS.tolist()})
    found = adapter(theirs, protocol="kserve-v1", answers="probabilities", images_per_call=8)
    assert ask(found, theirs.url, looks=False).values == pytest.approx(ROWS)


def test_five_are_what_it_gives_unless_told_otherwise() -> None:
    classes = [f"class {number}" for number in range(20)]
    keys = {"model": "m", "classes": classes}
    assert adapter_of("http://localhost", "torchserve", **keys).capabilities.disclosure == "top-k:5"


@pytest.mark.parametrize(
    "content",
    [
        HTML,
        [],
        [0.1, 0.9],
        {"Trouser": "0.9", "Sandal": 0.05, "Ankle boot": 0.05},
        {"Trouser": None, "Sandal": 0.05, "Ankle boot": 0.05},
        {"Trouser": 0.9},
        {"Coat": 0.9, "Sandal": 0.05, "Ankle boot": 0.05},
        {"7": 0.9, "Sandal": 0.05, "Ankle boot": 0.05},
        {"Trouser": float("inf"), "Sandal": 0.05, "Ankle boot": 0.05},
        {"Trouser": 10**400, "Sandal": 0.05, "Ankle boot": 0.05},
        {"code": 200, "type": "x", "message": "y"},
    ],
)
def test_what_is_no_answer(theirs: Vendor, content: Any) -> None:
    theirs.always(content)
    with pytest.raises(TeacherProtocolError) as caught:
        ask(adapter(theirs), theirs.url, ONE, looks=False)
    assert caught.value.charged == "unknown"


@pytest.mark.parametrize("predictions", [None, {}, ROWS[:2].tolist(), [{"0": 1.0}, {"0": 1.0}, [1, 0, 0, 0]]])
def test_what_is_no_batch(theirs: Vendor, predictions: Any) -> None:
    theirs.always({"predictions": predictions})
    found = adapter(theirs, protocol="kserve-v1", answers="top-k:1", images_per_call=8)
    with pytest.raises(TeacherProtocolError):
        ask(found, theirs.url, looks=False)


@pytest.mark.parametrize(
    ("status", "kind", "charged"),
    [
        (404, TeacherRefused, "no"),
        (503, Retryable, "no"),
        (500, Retryable, "unknown"),
        (507, TeacherRefused, "unknown"),
    ],
)
def test_failures(theirs: Vendor, status: int, kind: type[Exception], charged: str) -> None:
    theirs.always({"code": status, "type": "InternalServerException", "message": "Prediction failed"}, status)
    with pytest.raises(kind) as caught:
        ask(adapter(theirs), theirs.url, ONE, looks=False)
    assert getattr(caught.value, "charged", "") == charged


def test_a_server_that_is_not_healthy(theirs: Vendor) -> None:
    theirs.always({"status": "Unhealthy"}, 500)
    with pytest.raises(Retryable):
        ask(adapter(theirs), theirs.url, ONE)


@pytest.mark.parametrize(
    ("keys", "says"),
    [
        ({"images_per_call": 2}, "images_per_call is 2"),
        ({"protocol": "kserve-v1", "model_version": "1"}, "model_version"),
        ({"model": "m?x"}, "model"),
    ],
)
def test_files_that_cannot_be(theirs: Vendor, keys: dict[str, Any], says: str) -> None:
    with pytest.raises(ValidationError, match=says):
        adapter(theirs, **keys)
