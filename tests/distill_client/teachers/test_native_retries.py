"""What the native client asks again, for how long, and what it says when it gives up."""

import email.utils
import re
import socket
import time
from contextlib import closing
from datetime import UTC, datetime

import httpx2
import numpy as np
import pytest
import stamina

from distill_client.errors import (
    TeacherUnavailable,
)
from distill_client.teachers.manners.asking import Manners, announce_retries
from distill_client.teachers.native.teacher import connect
from shared.wire.images import encode_npy
from tests.distill_client.teachers.scripted import (
    IMAGES,
    PROBABILITIES,
    MakeTeacher,
    Step,
    good,
    problem,
)


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize(
    "passing",
    [
        httpx2.ConnectError("refused"),
        httpx2.ConnectTimeout("slow"),
        httpx2.ReadTimeout("slow"),
        httpx2.ReadError("reset"),
        httpx2.WriteError("reset"),
        httpx2.RemoteProtocolError("closed without a response"),
        httpx2.Response(500, text="a proxy's page"),
        httpx2.Response(502, text="<html>bad gateway</html>"),
        httpx2.Response(429, text="slow down"),
        httpx2.Response(408),
        problem("overloaded", 503, retryable=True),
        problem("internal", 500, retryable=True),
        problem("a code of tomorrow", 418, retryable=True),
    ],
    ids=repr,
)
def test_what_may_pass_is_asked_again_with_the_same_key_and_bytes(make_teacher: MakeTeacher, passing: Step) -> None:
    teacher, script = make_teacher(passing, passing, good())
    answer = teacher.label(IMAGES, "key-1")
    assert np.array_equal(answer.values, PROBABILITIES)
    assert (answer.charged, answer.spent, answer.remaining, answer.event_sequence) == (3, 13, 87, 5)
    assert (answer.version, answer.disclosure, answer.event_hash) == ("1", "probabilities", "ab" * 32)
    assert len(script.requests) == 3
    assert script.keys() == {"key-1"}
    assert script.bodies() == {encode_npy(IMAGES)}
    assert script.requests[0].url.path == "/v1/teachers/fake/labels"
    assert script.requests[0].headers["Authorization"] == "Bearer k"


def test_retry_after_is_obeyed_in_both_its_forms(make_teacher: MakeTeacher) -> None:
    """Real waiting, of no length."""
    past = email.utils.formatdate(time.time() - 60, usegmt=True)
    busy = [problem("overloaded", 503, retryable=True) for _ in range(4)]
    for response, value in zip(busy, ("0", past, "00", "0"), strict=True):
        response.headers["Retry-After"] = value
    teacher, script = make_teacher(*busy, good(), deadline_s=20)
    teacher.label(IMAGES, "key-1")
    assert len(script.requests) == 5


@pytest.mark.parametrize("retry_after", ["3600", "9" * 400, "in an hour"])
def test_a_pause_beyond_the_deadline_ends_at_once_and_names_the_time(
    make_teacher: MakeTeacher, retry_after: str
) -> None:
    busy = problem("daily_budget_exhausted", 429, retryable=True)
    in_an_hour = email.utils.formatdate(time.time() + 3600, usegmt=True)
    busy.headers["Retry-After"] = in_an_hour if retry_after == "in an hour" else retry_after
    teacher, script = make_teacher(busy, deadline_s=60)
    started = time.monotonic()
    with pytest.raises(
        TeacherUnavailable,
        match=r"^daily_budget_exhausted: the detail; teacher\.test asks to be left alone until \d{4}-\d\d-\d\d "
        r"\d\d:\d\d:\d\d UTC, which is beyond the deadline of 60 s: go on then with `distill resume`. Nothing was",
    ) as caught:
        teacher.label(IMAGES, "key-1")
    assert (caught.value.exit_code, caught.value.charged) == (4, "no")
    assert len(script.requests) == 1
    assert time.monotonic() - started < 5
    if retry_after == "3600":
        named = re.search(r"until (.*) UTC", str(caught.value))
        assert named
        until = datetime.strptime(named[1], "%Y-%m-%d %H:%M:%S").replace(tzinfo=UTC)
        assert abs((until - datetime.now(UTC)).total_seconds() - 3600) < 10


def test_pauses_that_a_rate_limit_asks_for_are_not_counted_against_the_deadline(make_teacher: MakeTeacher) -> None:
    """A teacher that keeps its pace has not failed: four pauses of 1 s within a deadline of 1.5 s."""
    slow = problem("rate_limited", 429, retryable=True)
    slow.headers["Retry-After"] = "1"
    teacher, script = make_teacher(slow, slow, slow, slow, good(), deadline_s=1.5)
    started = time.monotonic()
    assert np.array_equal(teacher.label(IMAGES, "key-1").values, PROBABILITIES)
    assert time.monotonic() - started >= 4
    assert script.keys() == {"key-1"}
    overloaded = problem("overloaded", 503, retryable=True)
    overloaded.headers["Retry-After"] = "1"
    teacher, script = make_teacher(overloaded, deadline_s=1.5)
    with pytest.raises(TeacherUnavailable, match="overloaded: the detail"):
        teacher.label(IMAGES, "key-1")
    assert len(script.requests) == 2


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize(
    ("failures", "charged"),
    [
        ([httpx2.ConnectError("refused")], "no"),
        ([problem("overloaded", 503, retryable=True)], "no"),
        ([problem("still_running", 409, retryable=True)], "no"),
        ([problem("ledger_unavailable", 503, retryable=True, charged="no")], "no"),
        ([problem("ledger_unavailable", 503, retryable=True, charged="unknown")], "unknown"),
        ([problem("internal", 500, retryable=True, charged="no")], "no"),
        ([problem("internal", 500, retryable=True)], "unknown"),
        ([httpx2.ReadTimeout("slow")], "unknown"),
        ([httpx2.Response(502, text="a proxy's page")], "unknown"),
        ([httpx2.ReadError("reset"), httpx2.ConnectError("refused")], "unknown"),  # it stays unknown
    ],
    ids=str,
)
def test_whether_a_lost_batch_was_charged_is_said_when_it_is_known(
    make_teacher: MakeTeacher, failures: list[Step], charged: str
) -> None:
    teacher, _ = make_teacher(*failures)
    with pytest.raises(TeacherUnavailable) as caught:
        teacher.label(IMAGES, "key-1")
    assert caught.value.charged == charged
    assert ("Whether the batch was charged is not known here" in str(caught.value)) is (charged == "unknown")
    assert ("Nothing was charged" in str(caught.value)) is (charged == "no")
    with pytest.raises(TeacherUnavailable, match=r"within 5 s \([^()]*\)$") as asked:
        make_teacher(*failures)[0].usage()
    assert asked.value.charged == "no"


@pytest.mark.usefixtures("impatient")
def test_a_request_that_is_still_running_is_waited_for(make_teacher: MakeTeacher) -> None:
    running = problem("still_running", 409, retryable=True)
    teacher, script = make_teacher(running, running, good())
    assert teacher.label(IMAGES, "key-1").charged == 3
    assert script.keys() == {"key-1"}


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("retry_after", ["", "soon", "-5", "Wed, 99 Nov 99999 99:99:99 GMT", "٣"])
def test_a_senseless_retry_after_is_as_none(make_teacher: MakeTeacher, retry_after: str) -> None:
    busy = httpx2.Response(503, headers=[(b"Retry-After", retry_after.encode())])
    teacher, script = make_teacher(busy, good())
    teacher.label(IMAGES, "key-1")
    assert len(script.requests) == 2


def test_when_the_deadline_passes_the_teacher_is_unavailable(make_teacher: MakeTeacher) -> None:
    teacher, script = make_teacher(httpx2.ConnectError("refused"), deadline_s=0.3)
    with pytest.raises(
        TeacherUnavailable, match=r"teacher\.test.* within 0\.3 s \(ConnectError: refused\)"
    ) as caught:
        teacher.usage()
    assert caught.value.exit_code == 4
    assert len(script.requests) >= 2


def test_a_server_that_never_answers_does_not_outlast_the_deadline() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        with (
            closing(connect(url, "key", "fake", manners=Manners(0.15, requests_in_flight=8))) as teacher,
            pytest.raises(TeacherUnavailable),
        ):
            teacher.card()


@pytest.mark.usefixtures("impatient")
def test_retries_are_announced_in_a_sentence(make_teacher: MakeTeacher) -> None:
    said: list[str] = []
    announce_retries(said.append)
    try:
        teacher, _ = make_teacher(httpx2.ConnectError("refused"), problem("overloaded", 503, retryable=True), good())
        teacher.label(IMAGES, "key-1")
    finally:
        stamina.instrumentation.set_on_retry_hooks(None)
    assert said == [
        "the teacher does not answer (ConnectError: refused); asking again in 0.0 s",
        "the teacher does not answer (overloaded: the detail); asking again in 0.0 s",
    ]
