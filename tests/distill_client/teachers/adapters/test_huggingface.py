"""Hugging Face's image classification, against a server that answers in its documented shape."""

import base64
import io
import json
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pydantic import ValidationError

from distill_client.errors import BudgetExhausted, TeacherProtocolError, TeacherRefused
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


def pipeline(asked: Asked) -> Reply:
    """As transformers' pipeline behind a router or an Endpoint does: sorted, cut at top_k, 5 where it is not said."""
    if asked.headers["content-type"] == "application/json":
        body = asked.json
        image, parameters = base64.b64decode(body["inputs"]), body["parameters"]
    else:
        image, parameters = asked.content, {}
    assert np.array_equal(np.array(Image.open(io.BytesIO(image))), IMAGES[0])
    scores = ROWS[0] if parameters.get("function_to_apply") != "none" else np.log(ROWS[0] + 1e-9) + 3
    order = np.argsort(-scores)[: parameters.get("top_k", 5)]
    return Reply([{"label": CLASSES[at], "score": float(scores[at])} for at in order])


@pytest.mark.parametrize("encoding", ["png", "webp"])
@pytest.mark.parametrize("body", ["json", "file"])
def test_whole_distribution_of_exactly_our_bytes(theirs: Vendor, encoding: str, body: str) -> None:
    theirs.answer = pipeline
    adapter = adapter_of(f"{theirs.url}/models/a/b", "huggingface", encoding=encoding, body=body)
    answer = ask(adapter, theirs.url, ONE)
    assert answer.values == pytest.approx(ROWS[:1])
    assert (answer.disclosure, answer.charged, answer.is_counted) == ("probabilities", 1, False)
    (asked,) = theirs.asked
    assert asked.path == "/models/a/b"
    assert asked.headers["authorization"] == "Bearer secret"
    assert asked.headers["idempotency-key"] == "key-1"


def test_top_k_leaves_the_rest_undisclosed(theirs: Vendor) -> None:
    theirs.answer = pipeline
    answer = ask(adapter_of(theirs.url, "huggingface", answers="top-k:2"), theirs.url, ONE)
    assert theirs.asked[0].json["parameters"] == {"top_k": 2}
    assert answer.values[0, :2] == pytest.approx([0.7, 0.2])
    assert np.isnan(answer.values[0, 2:]).all()


def test_label_asks_for_one(theirs: Vendor) -> None:
    theirs.answer = pipeline
    answer = ask(adapter_of(theirs.url, "huggingface", answers="label"), theirs.url, ONE)
    assert theirs.asked[0].json["parameters"] == {"top_k": 1}
    assert answer.values.dtype == np.int64
    assert answer.values.tolist() == [0]


@pytest.mark.parametrize("answers", ["probabilities", "label"])
def test_logits_go_through_softmax_here(theirs: Vendor, answers: str) -> None:
    theirs.answer = pipeline
    answer = ask(adapter_of(theirs.url, "huggingface", function_to_apply="none", answers=answers), theirs.url, ONE)
    assert answer.values == (pytest.approx(ROWS[:1], abs=1e-6) if answers == "probabilities" else 0)


def test_numbered_labels_are_places(theirs: Vendor) -> None:
    theirs.always([{"label": f"LABEL_{at}", "score": score} for at, score in enumerate(ROWS[1])])
    assert ask(adapter_of(theirs.url, "huggingface"), theirs.url, ONE).values == pytest.approx(ROWS[1:2])


def test_a_class_named_like_a_number_is_itself(theirs: Vendor) -> None:
    theirs.always([{"label": "0", "score": 0.25}, {"label": "1", "score": 0.75}])
    adapter = adapter_of(theirs.url, "huggingface", classes=["1", "0"])
    assert ask(adapter, theirs.url, ONE).values == pytest.approx(np.array([[0.75, 0.25]]))


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (HTML, "not JSON"),
        (b"", "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b'[{"label": "Trouser", "score": ' + b"9" * 5000 + b"}]", "not JSON"),
        ({"label": "Trouser", "score": 1.0}, "names with scores|not a list of labels and scores"),
        ([{"label": "Trouser", "score": "1.0"}], "names with scores|not a list of labels and scores"),
        ([{"label": 3, "score": 1.0}], "names with scores|not a list of labels and scores"),
        ([{"label": "Trouser", "score": None}], "names with scores|not a list of labels and scores"),
        ([{"label": each, "score": float("nan")} for each in CLASSES], "score of nan"),
        ([{"label": each, "score": 1e300} for each in CLASSES], "allowed are 0 to 1"),
        ([{"label": each, "score": 0.9} for each in CLASSES], "3.6 together"),
        ([{"label": "Trouser", "score": 0.5}] * 4, "comes twice"),
        ([{"label": each, "score": 0.2} for each in [*CLASSES, "Coat"]], "'Coat'"),
        ([{"label": "Trouser", "score": 0.9}], 'write answers = "top-k:1"'),
        ([], "named 0 classes"),
    ],
)
def test_what_is_no_answer(theirs: Vendor, content: Any, says: str) -> None:
    theirs.always(content)
    with pytest.raises(TeacherProtocolError, match=says) as caught:
        ask(adapter_of(theirs.url, "huggingface"), theirs.url, ONE)
    assert caught.value.charged == "unknown"
    assert len(str(caught.value)) < 600


@pytest.mark.parametrize(
    ("status", "content", "charged"),
    [
        (400, {"error": "CUDA out of memory. Tried to allocate 20.00 MiB"}, "unknown"),
        (400, {"error": "Connection reset by peer"}, "unknown"),
        (429, {"error": "Too many requests"}, "no"),
        (503, {"error": "Model a/b is currently loading", "estimated_time": 7.5}, "no"),
        (500, HTML, "unknown"),
        (504, HTML, "unknown"),
    ],
)
def test_failures_that_pass(theirs: Vendor, status: int, content: Any, charged: str) -> None:
    theirs.always(content, status)
    with pytest.raises(Retryable) as caught:
        ask(adapter_of(theirs.url, "huggingface"), theirs.url, ONE)
    assert caught.value.charged == charged
    if status == 503:
        assert caught.value.after_s == pytest.approx(7.5)


@pytest.mark.parametrize(
    ("status", "content", "kind"),
    [
        (400, {"error": "cannot identify image file <_io.BytesIO object>"}, TeacherRefused),
        (400, {"error": "Body needs to provide a inputs key"}, TeacherRefused),
        (401, {"error": "Invalid username or password."}, TeacherRefused),
        (402, {"error": "You have exceeded your monthly included credits"}, BudgetExhausted),
        (404, HTML, TeacherRefused),
    ],
)
def test_failures_that_stay(theirs: Vendor, status: int, content: Any, kind: type[Exception]) -> None:
    theirs.always(content, status)
    with pytest.raises(kind) as caught:
        ask(adapter_of(theirs.url, "huggingface"), theirs.url, ONE)
    assert getattr(caught.value, "charged", "") == "no"


@pytest.mark.parametrize(
    ("keys", "says"),
    [
        ({"function_to_apply": "none", "answers": "top-k:2"}, "logits need all classes"),
        ({"function_to_apply": "softmax", "body": "file"}, "carries no parameters"),
        ({"encoding": "gif"}, "encoding"),
        ({"body": "xml"}, "body"),
    ],
)
def test_files_that_cannot_be(keys: dict[str, str], says: str) -> None:
    with pytest.raises(ValidationError, match=says):
        adapter_of("http://localhost", "huggingface", **keys)


def test_request_is_json_that_any_server_reads(theirs: Vendor) -> None:
    theirs.answer = pipeline
    ask(adapter_of(theirs.url, "huggingface", function_to_apply="softmax"), theirs.url, ONE)
    body = json.loads(theirs.asked[0].content)
    assert sorted(body) == ["inputs", "parameters"]
    assert body["parameters"] == {"top_k": 4, "function_to_apply": "softmax"}
