"""The native client against answers that no server of ours would give, at the transport's seam."""

import email.utils
import re
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import httpx2
import numpy as np
import pytest
import stamina
from numpy.typing import NDArray

from distill_client.errors import (
    BudgetExhausted,
    ConfigError,
    TeacherProtocolError,
    TeacherRefused,
    TeacherUnavailable,
)
from distill_client.teachers.manners.asking import Manners, announce_retries
from distill_client.teachers.native.teacher import NativeTeacher, connect
from distill_client.teachers.transport import Transport
from shared.wire.error_codes import ErrorCode
from shared.wire.images import NPY_MEDIA_TYPE, encode_npy
from tests.distill_client.fakes import FakeTeacher, answer_to

IMAGES = np.random.default_rng(0).integers(0, 256, (3, 4, 4, 1), np.uint8)
PROBABILITIES = np.array([[0.5, 0.5], [0.25, 0.75], [1, 0]], np.float32)
HEADERS = {
    "Content-Type": NPY_MEDIA_TYPE,
    "Teacher-Version": "1",
    "Teacher-Disclosure": "probabilities",
    "Images-Charged": "3",
    "Images-Spent": "13",
    "Images-Remaining": "87",
    "Event-Sequence": "5",
    "Event-Hash": "ab" * 32,
}
Step = httpx2.Response | Exception


def good(content: NDArray[np.generic] | bytes = PROBABILITIES, **headers: str | None) -> httpx2.Response:
    """A whole answer; headers by name with underscores, None leaves one out."""
    changes = {name.replace("_", "-").title(): value for name, value in headers.items()}
    kept = {name: value for name, value in {**HEADERS, **changes}.items() if value is not None}
    body = content if isinstance(content, bytes) else encode_npy(content)
    return httpx2.Response(200, content=body, headers=kept)


def problem(code: str, status: int, *, retryable: bool = False, **members: object) -> httpx2.Response:
    content = {"type": f"/docs#{code}", "title": "t", "status": status, "detail": "the detail", "code": code}
    headers = {"Retry-After": "0"} if retryable else {}
    return httpx2.Response(status, json={**content, "retryable": retryable, **members}, headers=headers)


@dataclass
class Script:
    """A transport that plays its steps in order, the last one for ever, and remembers what it was sent."""

    steps: list[Step]
    requests: list[httpx2.Request] = field(default_factory=list)

    def __call__(self, request: httpx2.Request) -> httpx2.Response:
        self.requests.append(request)
        step = self.steps[min(len(self.requests), len(self.steps)) - 1]
        if isinstance(step, Exception):
            raise step
        return httpx2.Response(step.status_code, headers=step.headers, content=step.content)

    def bodies(self) -> set[bytes]:
        return {request.content for request in self.requests}

    def keys(self) -> set[str]:
        return {request.headers["Idempotency-Key"] for request in self.requests}


MakeTeacher = Callable[..., tuple[NativeTeacher, Script]]


@pytest.fixture
def make_teacher() -> Iterator[MakeTeacher]:
    made: list[NativeTeacher] = []

    def make(*steps: Step, name: str = "fake", deadline_s: float = 5.0) -> tuple[NativeTeacher, Script]:
        script = Script(list(steps))
        client = httpx2.Client(
            transport=httpx2.MockTransport(script),
            base_url="http://teacher.test",
            headers={"Authorization": "Bearer k"},
        )
        made.append(NativeTeacher(Transport(client), name, manners=Manners(deadline_s, requests_in_flight=8)))
        return made[-1], script

    yield make
    for teacher in made:
        teacher.close()


@pytest.fixture
def impatient() -> Iterator[None]:
    """Retries come at once, five attempts at most."""
    with stamina.set_testing(True, attempts=5):
        yield


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


def test_refusals_that_need_the_owner_say_what_to_do(make_teacher: MakeTeacher) -> None:
    teacher, _ = make_teacher(problem("answer_expired", 410))
    with pytest.raises(TeacherRefused, match=r"answer_expired: the detail; this batch was charged once and will not"):
        teacher.label(IMAGES, "key-1")
    teacher, _ = make_teacher(problem("ledger_inconsistent", 503))
    with pytest.raises(TeacherRefused, match=r"ledger_inconsistent: the detail; .*`distill audit` compares"):
        teacher.label(IMAGES, "key-1")


def test_a_receipt_is_handed_on_as_it_came(make_teacher: MakeTeacher) -> None:
    teacher, _ = make_teacher(good(), good(teacher_receipt="abc", idempotency_recomputed="true"))
    first, second = teacher.label(IMAGES, "key-1"), teacher.label(IMAGES, "key-1")
    assert (first.receipt, first.is_recomputed) == ("", False)
    assert (second.receipt, second.is_recomputed) == ("abc", True)


def test_signing_keys_are_none_only_where_the_server_has_no_such_address(make_teacher: MakeTeacher) -> None:
    keys = {"ledger": "ab", "keys": []}
    teacher, script = make_teacher(httpx2.Response(200, json=keys), problem("not_found", 404))
    found = teacher.signing_keys()
    assert found is not None
    assert found.ledger == "ab"
    assert teacher.signing_keys() is None
    assert script.requests[0].url.path == "/.well-known/teacher-signing-keys"
    for wrong, error in (
        (httpx2.Response(200, json={"keys": []}), TeacherProtocolError),
        (httpx2.Response(404, text="a page"), TeacherProtocolError),
        (problem("unauthenticated", 401), TeacherRefused),
    ):
        with pytest.raises(error):
            make_teacher(wrong)[0].signing_keys()


def test_events_come_with_their_signatures_or_with_empty_ones(make_teacher: MakeTeacher) -> None:
    events = [event.model_dump() for event in FakeTeacher().events()]
    signed = {"signing_key": "ab" * 32, "signature": "cd" * 64}
    content = {"key_name": "ada", "events": events, "next_after": None}
    teacher, _ = make_teacher(
        httpx2.Response(200, json=content), httpx2.Response(200, json={**content, "signatures": [signed]})
    )
    assert [each.signature.signature for each in teacher.signed_events()] == [""]
    assert [each.signature.model_dump() for each in teacher.signed_events()] == [signed]
    teacher, _ = make_teacher(httpx2.Response(200, json={**content, "signatures": [signed, signed]}))
    with pytest.raises(TeacherProtocolError, match="1 events after 0 come with 2 signatures"):
        list(teacher.events())


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


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (good(b"not an array"), "not a .npy file"),
        (good(b""), "not a .npy file"),
        (good(encode_npy(PROBABILITIES)[:-1]), "needs 24 bytes"),
        (good(PROBABILITIES[:2]), r"shape \(2, 2\) is no answer to 3 images"),
        (good(PROBABILITIES.astype(np.float64)), "float64"),
        (good(PROBABILITIES[..., None]), r"shape \(3, 2, 1\)"),
        (good(np.array([0, 1, 2])), "int64 of shape"),  # labels, where probabilities are disclosed
        (good(np.array([[0.5, 0.6], [-0.1, 1], [1, 0]], np.float32)), "outside 0 to 1"),
        (good(np.array([[0.5, 0.6], [0.1, 1.5], [1, 0]], np.float32)), "outside 0 to 1"),
        (good(np.array([[0.5, np.inf], [0.1, 1], [1, 0]], np.float32)), "outside 0 to 1"),
        (good(np.array([[0.5, np.nan], [0.1, 1], [1, 0]], np.float32)), "as many classes as"),
        (good(PROBABILITIES, teacher_disclosure="top-k:1"), "as many classes as"),
        (good(PROBABILITIES, teacher_disclosure="label"), "under label"),
        (good(PROBABILITIES, teacher_disclosure="everything"), "disclosure is 'everything'"),
        (good(images_charged="2"), "3 images were sent, 2 charged"),
        (good(images_spent="many"), "many"),
        *((good(PROBABILITIES, **{name.lower().replace("-", "_"): None}), name) for name in list(HEADERS)[1:]),
    ],
)
def test_an_answer_outside_the_contract_is_not_used_and_not_asked_again(
    make_teacher: MakeTeacher, answer: httpx2.Response, message: str
) -> None:
    teacher, script = make_teacher(answer)
    with pytest.raises(TeacherProtocolError, match=f"(?i){message}") as caught:
        teacher.label(IMAGES, "key-1")
    assert caught.value.exit_code == 5
    assert len(script.requests) == 1


@pytest.mark.parametrize("k", [1, 2, 5])
def test_top_k_answers_keep_their_gaps(make_teacher: MakeTeacher, k: int) -> None:
    values = answer_to(IMAGES, f"top-k:{k}", classes=3)
    teacher, _ = make_teacher(good(values, teacher_disclosure=f"top-k:{k}"))
    answer = teacher.label(IMAGES, "key-1")
    assert np.array_equal(answer.values, values, equal_nan=True)
    assert answer.disclosure == f"top-k:{k}"


@pytest.mark.parametrize(
    ("response", "message"),
    [
        (httpx2.Response(404, html="<html>nginx</html>"), "HTTP 404 without a problem document; is this a teacher"),
        (httpx2.Response(200, html="<html>welcome</html>"), "does not fit the contract"),
        (httpx2.Response(200, json={"granted": 5}), "does not fit the contract"),
        (httpx2.Response(204), "does not fit the contract"),
        (httpx2.Response(200, content=b"\x1f\x8bgarbage", headers={"X": "y"}), "does not fit the contract"),
    ],
)
def test_another_kind_of_server_is_recognised(
    make_teacher: MakeTeacher, response: httpx2.Response, message: str
) -> None:
    teacher, script = make_teacher(response)
    with pytest.raises(TeacherProtocolError, match=message):
        teacher.usage()
    assert len(script.requests) == 1


def test_a_body_that_cannot_be_decompressed_is_outside_the_contract() -> None:
    def serve(request: httpx2.Request) -> httpx2.Response:
        stream = httpx2.ByteStream(b"no gzip at all")
        return httpx2.Response(200, headers={"Content-Encoding": "gzip"}, stream=stream)

    client = httpx2.Client(transport=httpx2.MockTransport(serve), base_url="http://teacher.test")
    with closing(NativeTeacher(Transport(client), "fake", manners=Manners(1, requests_in_flight=8))) as teacher:
        with pytest.raises(TeacherProtocolError, match="decompress"):
            teacher.usage()
        with pytest.raises(TeacherProtocolError, match="decompress"):
            teacher.label(IMAGES, "key-1")


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_a_redirect_is_not_followed_with_the_key(make_teacher: MakeTeacher, status: int) -> None:
    elsewhere = httpx2.Response(status, headers={"Location": "http://elsewhere.test/v1/usage"})
    teacher, script = make_teacher(elsewhere)
    for ask in (teacher.usage, lambda: teacher.label(IMAGES, "key-1")):
        with pytest.raises(TeacherProtocolError, match=f"HTTP {status}"):
            ask()
    assert {request.url.host for request in script.requests} == {"teacher.test"}
    assert len(script.requests) == 2


@pytest.mark.parametrize("code", [code for code in ErrorCode if code != ErrorCode.BUDGET_EXHAUSTED])
def test_a_refusal_is_final_and_names_its_code(make_teacher: MakeTeacher, code: ErrorCode) -> None:
    teacher, script = make_teacher(problem(code, 422))
    with pytest.raises(TeacherRefused, match=f"{code}: the detail") as caught:
        teacher.label(IMAGES, "key-1")
    assert (caught.value.code, caught.value.exit_code) == (code, 8 if code == ErrorCode.DISCLOSURE_CHANGED else 3)
    assert ("DISTILL_API_KEY" in str(caught.value)) is (code == ErrorCode.UNAUTHENTICATED)
    assert len(script.requests) == 1


def test_an_exhausted_budget_carries_its_numbers(make_teacher: MakeTeacher) -> None:
    teacher, _ = make_teacher(problem("budget_exhausted", 403, granted=100, spent=98, asked=3))
    with pytest.raises(BudgetExhausted, match="the detail") as caught:
        teacher.label(IMAGES, "key-1")
    assert (caught.value.granted, caught.value.spent) == (100, 98)


@pytest.mark.parametrize("members", [{}, {"granted": None, "spent": 1}, {"granted": "lots", "spent": []}])
def test_an_exhausted_budget_without_numbers_is_still_a_refusal(
    make_teacher: MakeTeacher, members: dict[str, Any]
) -> None:
    teacher, _ = make_teacher(problem("budget_exhausted", 403, **members))
    with pytest.raises(TeacherRefused, match="budget_exhausted"):
        teacher.label(IMAGES, "key-1")


def page(events: list[dict[str, Any]], next_after: int | None) -> httpx2.Response:
    return httpx2.Response(200, json={"key_name": "ada", "events": events, "next_after": next_after})


def test_pages_of_events_that_do_not_advance_are_not_read_for_ever(make_teacher: MakeTeacher) -> None:
    events = [event.model_dump() for event in FakeTeacher().events()]
    teacher, script = make_teacher(page(events, 1), page([], 1))
    with pytest.raises(TeacherProtocolError, match="page 1 is followed by page 1"):
        list(teacher.events())
    assert [request.url.params["after"] for request in script.requests] == ["0", "1"]


@pytest.mark.parametrize("name", ["../usage", "a/b", "a b", "a?b", "a#b", "é", "a\nb", "a%2fb"])
def test_any_name_of_a_teacher_stays_within_its_part_of_the_path(make_teacher: MakeTeacher, name: str) -> None:
    teacher, script = make_teacher(problem("teacher_not_found", 404), name=name)
    with pytest.raises(TeacherRefused, match="teacher_not_found"):
        teacher.label(IMAGES, "key-1")
    raw = script.requests[0].url.raw_path
    assert raw.startswith(b"/v1/teachers/")
    assert raw.count(b"/") == 4
    assert raw.endswith(b"/labels")


@pytest.mark.parametrize("secret", ["", "a b", "a\nb", "ключ", "key\r\nX-Evil: 1", "\x00"])
def test_a_key_that_cannot_be_one_is_refused_before_anything_is_sent(secret: str) -> None:
    with pytest.raises(ConfigError, match="the key holds"):
        connect("http://127.0.0.1:9", secret, "fake", manners=Manners(1, requests_in_flight=8))


@pytest.mark.parametrize(
    "url", ["", "127.0.0.1:8000", "ftp://host", "http://", "file:///etc", "http://host:port", "http:///x"]
)
def test_an_address_that_cannot_be_one_is_refused(url: str) -> None:
    with pytest.raises(ConfigError, match="teacher address is"):
        connect(url, "key", "fake", manners=Manners(1, requests_in_flight=8))


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
