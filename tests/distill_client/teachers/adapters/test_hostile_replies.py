"""Whatever a server sends, an adapter gives an answer that fits, or one of the errors that the client knows."""

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distill_client.errors import ConfigError, TeacherError
from distill_client.teachers.adapters.adapter import Adapter
from distill_client.teachers.manners.patience import Retryable
from distill_client.teachers.transport import HttpReply
from tests.distill_client.teachers.adapters.vendor import CLASSES, ROWS, adapter_of

KNOWN = (TeacherError, Retryable)
NUMBERS = ROWS.ravel().tolist()
NAMED = [{"label": name, "score": score} for name, score in zip(CLASSES, ROWS[0].tolist(), strict=True)]
PAIRS = [[name, score] for name, score in zip(CLASSES, ROWS[0].tolist(), strict=True)]
LOGPROBS = {"content": [{"token": '{"class":"S', "logprob": -0.1, "top_logprobs": [{"token": "x", "logprob": -3.0}]}]}
CHOICE = {"message": {"content": '{"class":"Sandal"}'}, "finish_reason": "stop", "logprobs": LOGPROBS}
ENTRIES = [f"{score}:{at % 4}:{CLASSES[at % 4]}" for at, score in enumerate(NUMBERS)]


def v2(**output: Any) -> Any:
    return {"model_version": "1", "outputs": [{"name": "o", "datatype": "FP32", "shape": [3, 4], **output}]}


OIP = {"model": "m", "input_name": "i", "output_name": "o"}
CASES: dict[str, tuple[dict[str, Any], int, Any]] = {
    "v2": ({"kind": "open-inference", **OIP}, 3, v2(data=NUMBERS)),
    "v2-ranked": (
        {"kind": "open-inference", **OIP, "output": "classification"},
        3,
        v2(datatype="BYTES", data=ENTRIES),
    ),
    "v2-label": (
        {"kind": "open-inference", **OIP, "output": "label", "answers": "label"},
        3,
        v2(datatype="INT64", shape=[3], data=[0, 1, 2]),
    ),
    "huggingface": ({"kind": "huggingface"}, 1, NAMED),
    "huggingface-label": ({"kind": "huggingface", "answers": "label"}, 1, NAMED),
    "tf-serving": ({"kind": "tf-serving", "model": "m"}, 3, {"predictions": ROWS.tolist()}),
    "tf-serving-label": (
        {"kind": "tf-serving", "model": "m", "output": "label", "answers": "label"},
        3,
        {"predictions": [0, 1, 2]},
    ),
    "tf-classify": ({"kind": "tf-serving", "model": "m", "method": "classify"}, 3, {"result": [PAIRS] * 3}),
    "torchserve": (
        {"kind": "torchserve", "model": "m", "answers": "top-k:3"},
        1,
        dict(zip(CLASSES, NUMBERS, strict=False)),
    ),
    "torchserve-v1": (
        {"kind": "torchserve", "model": "m", "answers": "probabilities", "protocol": "kserve-v1"},
        3,
        {"predictions": ROWS.tolist()},
    ),
    "openai-chat": ({"kind": "openai-chat", "model": "m"}, 1, {"choices": [CHOICE]}),
    "openai-chat-tokens": ({"kind": "openai-chat", "model": "m", "answers": "top-k:4"}, 1, {"choices": [CHOICE]}),
}

ANYTHING = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.just(10**400)
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(["NaN", "0.5", "LABEL_1", "0.1:2", *CLASSES]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=8,
)


def places(document: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Where a document has a value, the whole first."""
    inner = (
        document.items() if isinstance(document, dict) else enumerate(document) if isinstance(document, list) else ()
    )
    return [path, *(place for key, value in inner for place in places(value, (*path, key)))]


def replaced(document: Any, path: tuple[Any, ...], value: Any) -> Any:
    if not path:
        return value
    changed = json.loads(json.dumps(document))
    at = changed
    for key in path[:-1]:
        at = at[key]
    at[path[-1]] = value
    return changed


def made(case: str) -> tuple[Adapter, int, Any]:
    keys, images, document = CASES[case]
    return (
        adapter_of("http://localhost", keys["kind"], **{key: keys[key] for key in keys if key != "kind"}),
        images,
        document,
    )


def require_short(error: Exception) -> None:
    """A message for a person, however much the server sent."""
    assert len(str(error)) < 2000


def require_known(adapter: Adapter, images: int, reply: HttpReply) -> None:
    try:
        answer = adapter.read(reply, images)
    except KNOWN as error:
        require_short(error)
        return
    assert answer.values.shape in ((images,), (images, len(CLASSES)))
    if answer.values.dtype == np.float32:
        known = answer.values[~np.isnan(answer.values)]
        assert ((known >= 0) & (known <= 1)).all()
    else:
        assert ((answer.values >= -1) & (answer.values < len(CLASSES))).all()


@pytest.mark.parametrize("case", CASES)
def test_the_replies_that_are_changed_below_are_answers(case: str) -> None:
    if case == "openai-chat-tokens":
        return  # its scores are another test's; here it is read with whatever tokens
    adapter, images, document = made(case)
    assert len(adapter.read(HttpReply(200, {}, json.dumps(document).encode(), "u"), images).values) == images


@pytest.mark.parametrize("case", CASES)
@settings(max_examples=80, deadline=None)
@given(data=st.data())
def test_one_value_of_an_answer_is_anything(case: str, data: st.DataObject) -> None:
    adapter, images, document = made(case)
    path = data.draw(st.sampled_from(places(document)))
    content = json.dumps(replaced(document, path, data.draw(ANYTHING))).encode()
    require_known(adapter, images, HttpReply(200, {}, content, "http://localhost/x"))


@pytest.mark.parametrize("case", CASES)
@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_any_status_with_any_body(case: str, data: st.DataObject) -> None:
    adapter, images, _ = made(case)
    status = data.draw(st.integers(200, 599))
    content = data.draw(st.binary(max_size=40) | ANYTHING.map(lambda value: json.dumps(value).encode()))
    headers = data.draw(st.dictionaries(st.sampled_from(["retry-after", "x-should-retry"]), st.text(max_size=5)))
    require_known(adapter, images, HttpReply(status, headers, content, "http://localhost/x"))


@settings(max_examples=200, deadline=None)
@given(st.integers(-2, 200), st.integers(-2, 60), st.binary(max_size=60), st.sampled_from(["FP32", "BYTES", "FP64"]))
def test_binary_that_lies_about_its_lengths(length: int, size: int, raw: bytes, datatype: str) -> None:
    adapter, images, _ = made("v2-ranked" if datatype == "BYTES" else "v2")
    head = json.dumps(v2(datatype=datatype, parameters={"binary_data_size": size})).encode()
    headers = {"Inference-Header-Content-Length": str(len(head) if length > 100 else length)}
    require_known(adapter, images, HttpReply(200, headers, head + raw, "http://localhost/x"))


METADATA = {
    "name": "m",
    "inputs": [{"name": "i", "datatype": "FP32", "shape": [-1, 5, 6, 3], "parameters": {"also": "x"}}],
    "outputs": [{"name": "o", "datatype": "FP32", "shape": [-1, 4], "parameters": {"classes": json.dumps(CLASSES)}}],
}


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(places(METADATA)), ANYTHING)
def test_metadata_with_anything_in_it(path: tuple[Any, ...], value: Any) -> None:
    adapter = adapter_of("http://localhost", "open-inference", model="m")
    content = json.dumps(replaced(METADATA, path, value)).encode()
    try:
        adapter.read_first_look(HttpReply(200, {}, content, "http://localhost/x"))
    except (*KNOWN, ConfigError) as error:
        require_short(error)
