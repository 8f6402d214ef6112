"""Servers of the Open Inference Protocol v2 that break it, refuse or fail: never taken for an answer."""

import json
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from distill_client.errors import ConfigError, TeacherProtocolError, TeacherRefused
from distill_client.teachers.manners.patience import Retryable
from tests.distill_client.teachers.adapters.inference_model import LENGTH, Model, adapter
from tests.distill_client.teachers.adapters.vendor import (
    HTML,
    ROWS,
    Reply,
    Vendor,
    ask,
)


def output(**changes: Any) -> dict[str, Any]:
    return {
        "outputs": [{"name": "scores", "datatype": "FP32", "shape": [3, 4], "data": ROWS.ravel().tolist(), **changes}]
    }


@pytest.mark.parametrize(
    "content",
    [
        HTML,
        b"",
        b"{" * 100_000,
        {},
        {"outputs": []},
        {"outputs": "x"},
        {"outputs": [3]},
        {"outputs": [{"name": "scores"}]},
        output(name="other"),
        output(shape=[4, 3]),
        output(shape=[2, 4], data=[0.1] * 8),
        output(shape=[3, 5], data=[0.1] * 15),
        output(shape=[3]),
        output(shape=[-3, -4]),
        output(shape=[3, "4"]),
        output(shape=[3, True, 4]),
        output(shape=[10**30, 0]),
        output(data=[0.1] * 11),
        output(data=["0.1"] * 12),
        output(data=[True] * 12),
        output(data=[[0.1] * 4, [0.1] * 4, [0.1] * 3]),
        output(data="0.1"),
        output(data=None),
        output(data=[10**400] * 12),
        output(data=[None] * 12),
        output(data=[7.5] * 12),
        output(data=[-0.1] * 12),
        output(data=[0.9] * 12),
        output(datatype="BF16"),
        output(datatype=["FP32"]),
        output(datatype="BYTES", data=["a"] * 12),
        output(parameters={"binary_data_size": 48}),
        output(parameters={"binary_data_size": -1}),
        output(parameters={"binary_data_size": "48"}),
        json.dumps(output()).replace("0.7", "NaN").replace("0.1", "NaN").replace("0.", "-Infinity, 0.").encode(),
    ],
)
def test_what_is_no_answer(theirs: Vendor, content: Any) -> None:
    model = Model()
    theirs.answer = lambda asked: model(asked) if asked.method == "GET" else Reply(content)
    with pytest.raises(TeacherProtocolError) as caught:
        ask(adapter(theirs), theirs.url)
    assert caught.value.charged == "unknown"
    assert len(str(caught.value)) < 600


@pytest.mark.parametrize(
    ("length", "body"),
    [
        ("9999999999999999999999", b"{}"),
        ("-1", b"{}"),
        ("x", b"{}"),
        ("²", b"{}"),
        ("0", b"{}"),
        ("50", b"{}"),
    ],
)
def test_a_header_that_lies_about_the_json(theirs: Vendor, length: str, body: bytes) -> None:
    model = Model()
    theirs.answer = lambda asked: model(asked) if asked.method == "GET" else Reply(body, headers={LENGTH: length})
    with pytest.raises(TeacherProtocolError):
        ask(adapter(theirs), theirs.url)


@pytest.mark.parametrize(
    ("datatype", "raw"),
    [
        ("FP32", b"\0" * 47),
        ("FP32", b"\0" * 52),
        ("BYTES", b"\xff\xff\xff\xff1"),
        ("BYTES", b"\1\0"),
        ("BYTES", b"\3\0\0\0\xff\xfe:" * 12),
    ],
)
def test_binary_that_is_no_answer(theirs: Vendor, datatype: str, raw: bytes) -> None:
    model = Model()
    entry = {"name": "scores", "datatype": datatype, "shape": [3, 4], "parameters": {"binary_data_size": len(raw)}}
    head = json.dumps({"outputs": [entry]}).encode()
    reply = Reply(head + raw, headers={LENGTH: str(len(head))})
    theirs.answer = lambda asked: model(asked) if asked.method == "GET" else reply
    with pytest.raises(TeacherProtocolError):
        ask(adapter(theirs, output="classification" if datatype == "BYTES" else "probabilities"), theirs.url)


@pytest.mark.parametrize("entry", ["0.9", "0.9:4", "0.9:-1", "0.9:x", "x:1", ":1", "0.9:1:Coat", "0.9:²"])
def test_entries_that_name_no_class(theirs: Vendor, entry: str) -> None:
    model = Model()
    told = {"outputs": [{"name": "scores", "datatype": "STRING", "shape": [3, 1], "data": ["0.9:1", entry, "0.9:2"]}]}
    theirs.answer = lambda asked: model(asked) if asked.method == "GET" else Reply(told)
    with pytest.raises(TeacherProtocolError):
        ask(adapter(theirs, output="classification", answers="top-k:1"), theirs.url)


@pytest.mark.parametrize("labels", [[0, 1, 4], [0, 1, -1], [0, 1, 1.5], [0, 1], [0, 1, None]])
def test_labels_that_are_no_places(theirs: Vendor, labels: list[Any]) -> None:
    model = Model(output=np.array([0, 1, 2]))
    told = {"outputs": [{"name": "scores", "datatype": "FP32", "shape": [len(labels)], "data": labels}]}
    theirs.answer = lambda asked: model(asked) if asked.method == "GET" else Reply(told)
    with pytest.raises(TeacherProtocolError):
        ask(adapter(theirs, output="label", answers="label"), theirs.url)


@pytest.mark.parametrize(
    ("status", "charged"), [(503, "no"), (429, "no"), (500, "unknown"), (504, "unknown"), (408, "unknown")]
)
def test_failures_that_pass(theirs: Vendor, status: int, charged: str) -> None:
    model = Model()
    theirs.answer = lambda asked: model(asked) if asked.method == "GET" else Reply({"error": "no"}, status)
    with pytest.raises(Retryable) as caught:
        ask(adapter(theirs), theirs.url)
    assert caught.value.charged == charged


def test_bad_requests_cost_nothing(theirs: Vendor) -> None:
    model = Model()
    theirs.answer = lambda asked: model(asked) if asked.method == "GET" else Reply({"error": "batch-size"}, 400)
    with pytest.raises(TeacherRefused, match="batch-size") as caught:
        ask(adapter(theirs), theirs.url)
    assert caught.value.charged == "no"


@pytest.mark.parametrize(
    ("keys", "says"),
    [
        ({"output": "label"}, "output is label and answers is 'probabilities'"),
        ({"output": "logits", "answers": "top-k:2"}, "output is logits"),
        ({"mean": [0.1, 0.2]}, "mean has 2 numbers"),
        ({"std": [1.0, 0.0, 1.0]}, "std is"),
        ({"model": "a/b"}, "model"),
        ({"datatype": "INT8"}, "datatype"),
        ({"scale": 0}, "scale"),
    ],
)
def test_files_that_cannot_be(theirs: Vendor, keys: dict[str, Any], says: str) -> None:
    with pytest.raises(ValidationError, match=says):
        adapter(theirs, **keys)


@pytest.mark.parametrize(
    ("keys", "images"),
    [
        ({"datatype": "UINT8", "call_bytes_max": 2048 + 90 * 3}, 3),
        ({"datatype": "FP32", "call_bytes_max": 2048 + 90 * 4 * 3}, 3),
        ({"datatype": "UINT8", "wire": "json", "call_bytes_max": 2048 + 90 * 4 * 2}, 2),
        ({"datatype": "BYTES", "call_bytes_max": 2048 + 4000}, 3),
        ({"datatype": "UINT8"}, 8),
    ],
)
def test_no_more_images_than_fit_a_call(theirs: Vendor, keys: dict[str, Any], images: int) -> None:
    model = theirs.answer = Model(shape=[-1] if keys["datatype"] == "BYTES" else [-1, 5, 6, 3])
    model.datatype = keys["datatype"]
    found = adapter(theirs, **keys)
    assert found.capabilities.images_per_request_max == images
    model.output = np.repeat(ROWS[:1], images, axis=0)
    ask(found, theirs.url, np.random.default_rng(1).integers(0, 256, (images, 5, 6, 3), np.uint8))
    if "call_bytes_max" in keys:
        assert len(theirs.asked[-1].content) <= keys["call_bytes_max"]


def test_a_call_that_holds_no_image(theirs: Vendor) -> None:
    with pytest.raises(ConfigError, match="call_bytes_max is 2000"):
        adapter(theirs, call_bytes_max=2000)
