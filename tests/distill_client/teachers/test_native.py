"""The native client against answers that no server of ours would give, at the transport's seam."""

from contextlib import closing
from typing import Any

import httpx2
import numpy as np
import pytest

from distill_client.errors import (
    BudgetExhausted,
    ConfigError,
    TeacherProtocolError,
    TeacherRefused,
)
from distill_client.teachers.manners.asking import Manners
from distill_client.teachers.native.teacher import NativeTeacher, connect
from distill_client.teachers.transport import Transport
from shared.wire.error_codes import ErrorCode
from shared.wire.images import encode_npy
from tests.distill_client.fakes import FakeTeacher, answer_to
from tests.distill_client.teachers.scripted import HEADERS, IMAGES, PROBABILITIES, MakeTeacher, good, page, problem


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
