"""What vendors' refusals mean, row by row of the table, and the pauses that they ask for."""

import email.utils
import json
import time
from typing import Any

import httpx2
import pytest

from distill_client.errors import BudgetExhausted, TeacherRefused
from distill_client.teachers.manners.patience import Retryable
from distill_client.teachers.manners.pauses import asked_pause_s, spent_limit_s
from distill_client.teachers.manners.signals import VENDORS, Signal, failure_of, signal_of
from distill_client.teachers.transport import HttpReply


def reply(status: int, content: Any = "", **headers: str) -> HttpReply:
    body = content if isinstance(content, bytes) else json.dumps(content).encode()
    named = httpx2.Headers({name.replace("_", "-"): value for name, value in headers.items()})
    return HttpReply(status, named, body, "http://teacher.test/x")


def aws(name: str) -> dict[str, str]:
    return {"__type": f"com.amazonaws.rekognition#{name}", "message": "no"}


def google(status: str = "", **error: Any) -> dict[str, Any]:
    return {"error": {"code": 0, "message": "no", "status": status, **error}}


def openai(code: str | None, kind: str = "") -> dict[str, Any]:
    return {"error": {"message": "no", "type": kind, "code": code, "param": None}}


def clarifai(code: int | str) -> dict[str, Any]:
    return {"status": {"code": code, "description": "no", "req_id": "r"}, "outputs": []}


QUOTA = "type.googleapis.com/google.rpc.ErrorInfo"
ROWS: list[tuple[str, HttpReply, str, str]] = [
    *(
        ("AWS", reply(400, aws(name)), "throttled", "no")
        for name in ("ThrottlingException", "ProvisionedThroughputExceededException", "LimitExceededException")
    ),
    ("AWS", reply(400, {}, x_amzn_ErrorType="ThrottlingException:http://internal.amazon.com/"), "throttled", "no"),
    ("AWS", reply(429, {}, x_amzn_ErrorType="ModelNotReadyException"), "overloaded", "no"),
    ("AWS", reply(400, aws("ResourceNotReadyException")), "overloaded", "no"),
    ("AWS", reply(400, aws("ServiceQuotaExceededException")), "exhausted", "no"),
    ("AWS", reply(400, aws("AccessDeniedException")), "unauthorised", "no"),
    ("AWS", reply(400, {"__type": "ExpiredTokenException"}), "unauthorised", "no"),
    ("AWS", reply(400, {"code": "UnrecognizedClientException"}), "unauthorised", "no"),
    ("AWS", reply(500, aws("InternalServerError")), "unknown_outcome", "unknown"),
    ("AWS", reply(424, {"OriginalStatusCode": 500}, x_amzn_errortype="ModelError"), "unknown_outcome", "unknown"),
    ("", reply(400, aws("InvalidImageFormatException")), "bad_request", "no"),
    ("OpenAI", reply(429, openai("insufficient_quota")), "exhausted", "no"),
    ("OpenAI", reply(429, openai(None, "insufficient_quota")), "exhausted", "no"),
    ("OpenAI", reply(429, openai("billing_hard_limit_reached")), "exhausted", "no"),
    ("", reply(429, openai("rate_limit_exceeded")), "throttled", "no"),
    ("", reply(401, openai("invalid_api_key")), "unauthorised", "no"),
    ("", reply(402, {"error": "You have exceeded your monthly included credits"}), "exhausted", "no"),
    ("Hugging Face", reply(503, {"error": "loading", "estimated_time": 20.5}), "overloaded", "no"),
    *(("Clarifai", reply(status, clarifai(11005)), "throttled", "no") for status in (200, 429)),
    ("Clarifai", reply(429, clarifai("CONN_THROTTLED")), "throttled", "no"),
    ("Clarifai", reply(200, clarifai(10030)), "throttled", "no"),
    ("Clarifai", reply(402, clarifai(11006)), "exhausted", "no"),
    ("Clarifai", reply(200, clarifai(11004)), "exhausted", "no"),
    ("Clarifai", reply(401, clarifai(11009)), "unauthorised", "no"),
    ("Google", reply(429, google("RESOURCE_EXHAUSTED")), "throttled", "no"),
    ("Google", reply(403, google(errors=[{"reason": "rateLimitExceeded"}])), "throttled", "no"),
    ("Google", reply(403, google(errors=[{"reason": "dailyLimitExceeded"}])), "exhausted", "no"),
    (
        "Google",
        reply(429, google("RESOURCE_EXHAUSTED", details=[{"@type": QUOTA, "reason": "RATE_LIMIT_EXCEEDED"}])),
        "throttled",
        "no",
    ),
    (
        "Google",
        reply(429, google("RESOURCE_EXHAUSTED", details=[{"metadata": {"quota_limit": "RequestsPerDayPerProject"}}])),
        "exhausted",
        "no",
    ),
    (
        "Google",
        reply(429, google("RESOURCE_EXHAUSTED", details=[{"metadata": {"quota_limit": "RequestsPerMinute"}}])),
        "throttled",
        "no",
    ),
    ("Google", reply(503, google("UNAVAILABLE")), "overloaded", "no"),
    ("Google", reply(504, google("DEADLINE_EXCEEDED")), "unknown_outcome", "unknown"),
    ("Google", reply(403, google("PERMISSION_DENIED")), "unauthorised", "no"),
    ("Google", reply(400, google("UNAUTHENTICATED")), "unauthorised", "no"),
    ("Azure", reply(403, {"error": {"message": "Out of call volume quota. Quota will be..."}}), "exhausted", "no"),
    ("Azure", reply(429, {"error": {"code": "QuotaExceeded"}}), "exhausted", "no"),
    ("", reply(429, {"error": {"code": "429", "message": "Please retry after 1 second."}}), "throttled", "no"),
    ("", reply(429), "throttled", "no"),
    ("", reply(402, b"<html>"), "exhausted", "no"),
    ("", reply(401), "unauthorised", "no"),
    ("", reply(403), "unauthorised", "no"),
    ("", reply(503), "overloaded", "no"),
    ("", reply(529, {"type": "overloaded_error"}), "overloaded", "no"),
    *(("", reply(status), "unknown_outcome", "unknown") for status in (408, 424, 500, 502, 504, 599)),
    *(("", reply(status), "bad_request", "no") for status in (301, 400, 404, 405, 413, 415, 422)),
]


@pytest.mark.parametrize(("vendor", "refusal", "meaning", "charged"), ROWS)
def test_what_a_refusal_means(vendor: str, refusal: HttpReply, meaning: str, charged: str) -> None:
    found = signal_of(refusal)
    assert found is not None
    assert (found.vendor, found.meaning, found.charged) == (vendor, meaning, charged)
    failure = failure_of(refusal)
    if meaning in ("throttled", "overloaded", "unknown_outcome"):
        assert isinstance(failure, Retryable)
        assert failure.charged == charged
        assert failure.pressure == (meaning if meaning != "unknown_outcome" else "")
    elif meaning == "exhausted":
        assert isinstance(failure, BudgetExhausted)
    else:
        assert type(failure) is TeacherRefused
        assert failure.code == meaning


def test_every_row_of_the_table_is_shown_by_a_refusal_here() -> None:
    shown = [signal_of(refusal) for _, refusal, _, _ in ROWS]
    assert [signal for signal in VENDORS if signal not in shown] == []


@pytest.mark.parametrize(
    "content",
    [
        {"predictions": [0.5, 0.5]},
        clarifai(10000),
        clarifai(10010),
        {"status": "ok"},
        {"error": {"status": "RESOURCE_EXHAUSTED"}},  # of one image of many, maybe: not for us to say
        b"\x00" * 70_000,
        b"[" * 10_000,
        [11005],
    ],
)
def test_an_answer_is_an_answer(content: Any) -> None:
    assert signal_of(reply(200, content)) is None


@pytest.mark.parametrize("content", [b"\xff\xfe", b"[" * 100_000, b'{"error": [', 10**300, None, [[]], {"error": 5}])
@pytest.mark.parametrize("status", [400, 429, 500])
def test_no_body_breaks_the_table(content: Any, status: int) -> None:
    assert isinstance(failure_of(reply(status, content)), Exception)


def test_own_signals_decide_before_the_vendors() -> None:
    own = [Signal(meaning="bad_request", status=(429,), body="forever", charged="yes")]
    failure = failure_of(reply(429, {"error": "no, forever"}), own)
    assert isinstance(failure, TeacherRefused)
    assert failure.charged == "yes"
    assert isinstance(failure_of(reply(429, {}), own), Retryable)


@pytest.mark.parametrize(
    ("status", "should_retry", "is_retryable"),
    [(429, "false", False), (503, "FALSE", False), (400, "true", True), (409, "true", True), (500, "maybe", True)],
)
def test_x_should_retry_decides(status: int, should_retry: str, is_retryable: bool) -> None:
    failure = failure_of(reply(status, {}, x_should_retry=should_retry))
    assert isinstance(failure, Retryable) is is_retryable


PAUSES: list[tuple[dict[str, str], Any, float | None]] = [
    ({"retry-after-ms": "250", "retry-after": "9"}, None, 0.25),
    ({"retry-after-ms": "soon", "retry-after": "9"}, None, 9),
    ({"retry-after": "3"}, None, 3),
    ({"retry-after": " 3 "}, None, 3),
    ({"retry-after": "soon"}, None, None),
    ({"RateLimit": '"day";r=0;t=14'}, None, 14),
    ({"RateLimit": '"day";r=3;t=14'}, None, None),
    ({"RateLimit": '"life";r=0'}, None, None),
    ({"RateLimit": '"life";r=0, "day";r=0;t=14, "rate";r=0;t=2'}, None, 14),
    ({"retry-after": "3", "RateLimit": '"day";r=0;t=14'}, None, 3),
    ({"ratelimit-remaining": "0", "ratelimit-reset": "7"}, None, 7),
    ({"ratelimit-remaining": "2", "ratelimit-reset": "7"}, None, None),
    ({"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "6m0s"}, None, 360),
    ({"x-ratelimit-remaining-tokens": "0", "x-ratelimit-reset-tokens": "20ms"}, None, 0.02),
    ({"x-ratelimit-remaining-tokens": "0", "x-ratelimit-reset-tokens": "1h2m3.5s"}, None, 3723.5),
    ({"x-ratelimit-remaining-requests": "9", "x-ratelimit-reset-requests": "6m0s"}, None, None),
    ({"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "6 minutes"}, None, None),
    ({}, {"error": {"details": [{"@type": "x"}, {"retryDelay": "13.5s"}]}}, 13.5),
    ({}, {"error": "loading", "estimated_time": 20.0}, 20),
    ({}, {"estimated_time": float("inf")}, None),
    ({}, {"estimated_time": -1}, None),
    ({}, {"estimated_time": True}, None),
    ({}, "text", None),
]


@pytest.mark.parametrize(("headers", "body", "pause_s"), PAUSES)
def test_the_pause_that_a_refusal_asks_for(headers: dict[str, str], body: Any, pause_s: float | None) -> None:
    assert asked_pause_s(httpx2.Headers(headers), body) == pause_s


def test_a_date_to_come_back_at() -> None:
    date = email.utils.formatdate(time.time() + 30, usegmt=True)
    found = asked_pause_s(httpx2.Headers({"Retry-After": date}))
    assert found is not None
    assert 28 < found <= 30


def test_an_answer_tells_of_a_used_up_limit_too() -> None:
    assert spent_limit_s(httpx2.Headers({"RateLimit": '"rate";r=0;t=14'})) == 14
    assert spent_limit_s(httpx2.Headers({"RateLimit": '"rate";r=1;t=14', "Retry-After": "9"})) is None


def test_clarifais_advice_is_kept_where_it_names_no_pause() -> None:
    failure = failure_of(reply(200, clarifai(11005)))
    assert isinstance(failure, Retryable)
    assert failure.after_s == 15
    failure = failure_of(reply(200, clarifai(11005), retry_after="2"))
    assert isinstance(failure, Retryable)
    assert failure.after_s == 2


def test_a_redirect_is_told_for_what_it_is() -> None:
    failure = failure_of(HttpReply(302, {"location": "http://elsewhere.test/"}, b"", "http://here.test/v1"))
    assert isinstance(failure, TeacherRefused)
    assert failure.charged == "no"
    assert "redirects are not followed" in str(failure)
    assert "redirect" not in str(failure_of(reply(404, {})))
