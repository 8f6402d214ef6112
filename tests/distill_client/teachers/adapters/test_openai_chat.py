"""Chat completions with vision, against a server that answers in OpenAI's documented shape."""

import base64
import io
import json
import math
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pydantic import ValidationError

from distill_client.errors import BudgetExhausted, TeacherProtocolError, TeacherRefused
from distill_client.teachers.manners.patience import Retryable
from tests.distill_client.teachers.adapters.vendor import CLASSES, HTML, IMAGES, Asked, Reply, Vendor, adapter_of, ask

ONE = IMAGES[:1]
BEGINS = '{"class":"'


def completion(content: str | None, **changes: Any) -> dict[str, Any]:
    message = {"role": "assistant", "content": content, "refusal": changes.pop("refusal", None)}
    choice = {"index": 0, "message": message, "finish_reason": "stop", "logprobs": None, **changes}
    usage = {"prompt_tokens": 120, "completion_tokens": 6, "total_tokens": 126}
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "model": "m-2026-01-01",
        "choices": [choice],
        "usage": usage,
    }


def logprob(token: str, probability: float, others: dict[str, float] | None = None) -> dict[str, Any]:
    def entry(text: str, value: float) -> dict[str, Any]:
        return {"token": text, "logprob": math.log(value), "bytes": list(text.encode())}

    return {
        **entry(token, probability),
        "top_logprobs": [entry(text, value) for text, value in {token: probability, **(others or {})}.items()],
    }


def adapter(theirs: Vendor, **keys: Any) -> Any:
    return adapter_of(f"{theirs.url}/v1", "openai-chat", **{"model": "m", **keys})


def test_one_of_the_classes_as_structured_output(theirs: Vendor) -> None:
    theirs.always(completion('{"class":"Ankle boot"}'))
    answer = ask(adapter(theirs), theirs.url, ONE)
    assert (answer.values.tolist(), answer.disclosure) == ([3], "label")
    (asked,) = theirs.asked
    assert asked.path == "/v1/chat/completions"
    body = asked.json
    schema = body["response_format"]["json_schema"]
    assert body["response_format"]["type"] == "json_schema"
    assert schema["strict"] is True
    assert schema["schema"]["properties"]["class"]["enum"] == CLASSES
    assert (body["temperature"], body["seed"], body["max_completion_tokens"]) == (0, 0, 64)
    assert "logprobs" not in body
    text, image = body["messages"][0]["content"]
    assert "T-shirt/top, Trouser, Sandal, Ankle boot" in text["text"]
    head, _, content = image["image_url"]["url"].partition(",")
    assert head == "data:image/png;base64"
    assert np.array_equal(np.array(Image.open(io.BytesIO(base64.b64decode(content)))), IMAGES[0])


def test_what_older_and_other_servers_take(theirs: Vendor) -> None:
    theirs.always(completion("Ankle boot"))
    keys = {"structure": "choice", "max_tokens_key": "max_tokens", "leave_out": ["seed", "temperature", "detail"]}
    assert ask(adapter(theirs, **keys), theirs.url, ONE).values.tolist() == [3]
    body = theirs.asked[0].json
    assert body["structured_outputs"] == {"choice": CLASSES}
    assert body["max_tokens"] == 64
    assert not {"seed", "temperature", "response_format", "max_completion_tokens"} & set(body)
    assert "detail" not in body["messages"][0]["content"][1]["image_url"]


@pytest.mark.parametrize("text", ["Sandal", ' "Sandal". ', "`Sandal`"])
def test_free_text(theirs: Vendor, text: str) -> None:
    theirs.always(completion(text))
    assert ask(adapter(theirs, structure="none"), theirs.url, ONE).values.tolist() == [2]


def test_log_probabilities_become_scores(theirs: Vendor) -> None:
    tokens = [
        logprob(BEGINS, 0.999),
        logprob("T", 0.6, {"S": 0.3, "An": 0.06, "tr": 0.04}),
        logprob("-sh", 0.75, {"ro": 0.25}),
        logprob('irt/top"}', 1.0),
    ]
    theirs.always(completion('{"class":"T-shirt/top"}', logprobs={"content": tokens, "refusal": None}))
    answer = ask(adapter(theirs, answers="top-k:4"), theirs.url, ONE)
    assert answer.values == pytest.approx(np.array([[0.45, 0.15, 0.3, 0.06]]))
    assert (theirs.asked[0].json["logprobs"], theirs.asked[0].json["top_logprobs"]) == (True, 20)
    assert ask(adapter(theirs, answers="top-k:2"), theirs.url, ONE).values == pytest.approx(
        np.array([[0.45, np.nan, 0.3, np.nan]]), nan_ok=True
    )


def test_log_probabilities_of_a_bare_name(theirs: Vendor) -> None:
    tokens = [logprob("Sandal", 0.8, {"Trouser": 0.15, "sandal": 0.05})]
    theirs.always(completion("Sandal", logprobs={"content": tokens}))
    values = ask(adapter(theirs, structure="choice", answers="top-k:3"), theirs.url, ONE).values
    assert values == pytest.approx(np.array([[np.nan, 0.15, 0.8, np.nan]]), nan_ok=True)


@pytest.mark.parametrize(
    "logprobs",
    [None, {"content": None}, {"content": []}, {"content": [logprob("something else", 0.5)]}],
)
def test_log_probabilities_that_are_not_given(theirs: Vendor, logprobs: Any) -> None:
    theirs.always(completion('{"class":"Sandal"}', logprobs=logprobs))
    with pytest.raises(TeacherProtocolError, match="answers = 'label'"):
        ask(adapter(theirs, answers="top-k:4"), theirs.url, ONE)


@pytest.mark.parametrize(
    ("status", "content"),
    [
        (200, completion(None, refusal="I can't help with that.")),
        (200, completion("", finish_reason="content_filter")),
        (400, {"error": {"message": "filtered", "type": None, "param": "prompt", "code": "content_filter"}}),
        (400, {"error": {"message": "x", "type": "invalid_request_error", "code": "content_policy_violation"}}),
    ],
)
@pytest.mark.parametrize("answers", ["label", "top-k:2"])
def test_a_refused_picture_was_paid_for_and_says_nothing(
    theirs: Vendor, status: int, content: Any, answers: str
) -> None:
    theirs.always(content, status)
    answer = ask(adapter(theirs, answers=answers), theirs.url, ONE)
    assert answer.charged == 1
    assert not answer.failures
    assert answer.values.tolist() == [-1] if answers == "label" else np.isnan(answer.values).all()


@pytest.mark.parametrize(
    "content",
    [
        HTML,
        {},
        {"choices": []},
        {"choices": [{}]},
        {"choices": "x"},
        completion("Sandal"),
        completion(""),
        completion(None),
        completion('{"class":"Coat"}'),
        completion('{"class":3}'),
        completion('{"klasse":"Sandal"}'),
        completion('["Sandal"]'),
        completion("[" * 50_000),
        completion('{"class":"San', finish_reason="length"),
        completion('{"class":"Sandal"}', logprobs={"content": [{"token": "x", "logprob": "y"}]}),
        completion('{"class":"Sandal"}', logprobs={"content": [{"token": "x", "logprob": 0.0, "bytes": [999]}]}),
        completion('{"class":"Sandal"}', logprobs={"content": [{"token": "x", "logprob": float("nan")}]}),
    ],
)
def test_what_is_no_answer(theirs: Vendor, content: Any) -> None:
    theirs.always(content)
    with pytest.raises(TeacherProtocolError) as caught:
        ask(adapter(theirs), theirs.url, ONE)
    assert caught.value.charged == "unknown"
    assert len(str(caught.value)) < 600


def test_another_model_than_the_file_names(theirs: Vendor) -> None:
    theirs.always(completion('{"class":"Sandal"}'))
    assert ask(adapter(theirs, served_model="m-2026-01-01"), theirs.url, ONE).values.tolist() == [2]
    with pytest.raises(TeacherProtocolError, match="served_model"):
        ask(adapter(theirs, served_model="m-2025-06-01"), theirs.url, ONE)


def error(code: str, kind: str = "requests") -> dict[str, Any]:
    return {"error": {"message": "no", "type": kind, "param": None, "code": code}}


@pytest.mark.parametrize(
    ("status", "content", "kind", "charged"),
    [
        (429, error("rate_limit_exceeded"), Retryable, "no"),
        (429, error("insufficient_quota", "insufficient_quota"), BudgetExhausted, "no"),
        (400, error("invalid_image_format", "invalid_request_error"), TeacherRefused, "no"),
        (401, error("invalid_api_key"), TeacherRefused, "no"),
        (500, error("server_error"), Retryable, "unknown"),
        (503, error("overloaded"), Retryable, "no"),
    ],
)
def test_failures(theirs: Vendor, status: int, content: Any, kind: type[Exception], charged: str) -> None:
    theirs.always(content, status)
    with pytest.raises(kind) as caught:
        ask(adapter(theirs), theirs.url, ONE)
    assert getattr(caught.value, "charged", "") == charged


def test_classes_with_marks_that_json_escapes(theirs: Vendor) -> None:
    classes = ['a "quoted" one', "Größe", "back\\slash"]
    body = json.dumps({"class": classes[0]})
    tokens = [logprob(body[:11], 1.0), logprob(body[11:], 0.7, {"Grö": 0.2, "back\\\\": 0.1})]
    theirs.always(completion(body, logprobs={"content": tokens}))
    values = ask(adapter(theirs, classes=classes, answers="top-k:3"), theirs.url, ONE).values
    assert values == pytest.approx(np.array([[0.7, 0.2, 0.1]]))


@pytest.mark.parametrize(
    ("keys", "says"),
    [
        ({"answers": "probabilities"}, "allowed are label and top-k"),
        ({"answers": "top-k:21"}, "allowed are label and top-k"),
        ({"images_per_call": 2}, "images_per_call is 2"),
        ({"leave_out": ["messages"]}, "leave_out"),
    ],
)
def test_files_that_cannot_be(theirs: Vendor, keys: dict[str, Any], says: str) -> None:
    with pytest.raises(ValidationError, match=says):
        adapter(theirs, **keys)


def test_the_request_asks_for_one_image(theirs: Vendor) -> None:
    seen: list[Asked] = []

    def once(asked: Asked) -> Reply:
        seen.append(asked)
        return Reply(completion('{"class":"Trouser"}'))

    theirs.answer = once
    assert adapter(theirs).capabilities.images_per_request_max == 1
    ask(adapter(theirs), theirs.url, ONE)
    assert len(seen) == 1
