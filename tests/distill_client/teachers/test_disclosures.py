"""What an answer has to be under each disclosure policy, and which policy a request asks for."""

import re

import httpx2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from distill_client.errors import TeacherChanged, TeacherProtocolError
from distill_client.teachers.manners.asking import Manners
from distill_client.teachers.native.answers import read_answer
from distill_client.teachers.native.teacher import NativeTeacher
from distill_client.teachers.transport import Transport
from shared.wire.contracts import HEADER_DISCLOSURE
from shared.wire.disclosure import Disclosure
from shared.wire.images import encode_npy
from tests.distill_client.fakes import FakeTeacher

NAN = float("nan")


def read(values: NDArray[np.generic], disclosure: str) -> NDArray[np.generic]:
    headers = {
        "Teacher-Disclosure": disclosure, "Teacher-Version": "1", "Images-Charged": str(len(values)),
        "Images-Spent": "9", "Images-Remaining": "9", "Event-Sequence": "2", "Event-Hash": "ab" * 32,
    }  # fmt: skip
    answer = read_answer(headers, encode_npy(values), images=len(values))
    assert answer.disclosure == disclosure
    return answer.values


@settings(deadline=None)
@given(st.integers(1, 6), st.integers(1, 12), st.lists(st.integers(0, 10**6), min_size=1, max_size=12))
def test_any_row_of_whole_units_is_an_answer_of_so_many_decimals(decimals: int, k: int, weights: list[int]) -> None:
    units = 10**decimals
    cuts = [weight % (units + 1) for weight in weights[:-1]]
    row = np.diff(np.array([0, *sorted(cuts), units])) / units
    whole = np.array([row], np.float32)
    assert np.array_equal(read(whole, f"probabilities;temperature=2;noise=0.1;decimals={decimals}"), whole)
    cut = whole.copy()
    np.put_along_axis(cut, np.argsort(-whole, axis=1, kind="stable")[:, k:], np.float32(NAN), axis=1)
    assert np.array_equal(read(cut, f"top-k:{k};decimals={decimals}"), cut, equal_nan=True)


@pytest.mark.parametrize(
    ("row", "disclosure", "says"),
    [
        ([0.5, 0.4, 0.0], "probabilities;decimals=1", "row 0 sums to 0.9; allowed is one under disclosure"),
        ([0.5, 0.5, 0.1], "probabilities;decimals=1", "row 0 sums to 1.1; allowed is one under"),
        ([0.5, 0.499999, 0.0], "probabilities;decimals=6", "row 0 sums to 0.999999; allowed is one under"),
        ([0.55, 0.45, 0.0], "probabilities;decimals=1", "more decimals than disclosure probabilities;decimals=1"),
        ([0.123456, 0.876544, 0], "probabilities;decimals=5", "more decimals than disclosure"),
        ([0.6, 0.5, NAN], "top-k:2;decimals=1", "row 0 sums to 1.1; allowed is one at most under"),
        ([0.5, 0.4, 0.0], "top-k:3;decimals=1", "row 0 sums to 0.9; allowed is one under"),
        ([0.5, NAN, NAN], "top-k:2;decimals=1", "as many classes as"),
        ([0.5, 0.5, NAN], "probabilities;decimals=1", "as many classes as"),
        ([0.5, 0.4, 0.0], "probabilities", "row 0 sums to 0.9; allowed is one under disclosure probabilities"),
        ([0.9, 0.2, NAN], "top-k:2", "row 0 sums to 1.1; allowed is one at most"),
        ([0.5, 0.5, 0.0], "probabilities;decimals=0", "decimals is 0; allowed are 1 to 6"),
        ([0.5, 0.5, 0.0], "probabilities;decimals=02", "allowed are probabilities, top-k:K"),
    ],
)
def test_a_row_that_its_policy_does_not_give_is_refused(row: list[float], disclosure: str, says: str) -> None:
    with pytest.raises(TeacherProtocolError, match=re.escape(says)):
        read(np.array([row], np.float32), disclosure)


@pytest.mark.parametrize(
    ("row", "disclosure"),
    [
        ([0.333333] * 3, "probabilities"),  # each number rounded by itself
        ([0.6667, 0.1667, 0.1667], "probabilities"),
        ([0.5, 0.3, NAN], "top-k:2;decimals=1"),
        ([0.666667, 0.333334, NAN], "top-k:2"),
        ([0.3, 0.3, 0.4], "top-k:7;decimals=1"),
    ],
)
def test_a_row_that_its_policy_gives_is_taken(row: list[float], disclosure: str) -> None:
    values = np.array([row], np.float32)
    assert np.array_equal(read(values, disclosure), values, equal_nan=True)


def test_labels_may_have_noise() -> None:
    assert read(np.array([3, 1]), "label;noise=0.5").tolist() == [3, 1]
    with pytest.raises(TeacherProtocolError, match=r"under label;noise=0\.5"):
        read(np.array([[0.5, 0.5]], np.float32), "label;noise=0.5")


def test_requests_say_the_policy_of_the_first_card_and_a_change_is_told_with_what_to_do() -> None:
    heard: list[str | None] = []
    cards = [FakeTeacher(disclosure=text).card() for text in ("top-k:3;decimals=2", "label")]

    def handle(request: httpx2.Request) -> httpx2.Response:
        if request.method == "GET":
            return httpx2.Response(200, json=cards.pop(0).model_dump())
        heard.append(request.headers.get(HEADER_DISCLOSURE))
        problem = {
            "type": "/docs#disclosure_changed", "title": "changed", "status": 412, "code": "disclosure_changed",
            "detail": "this key's is 'label' now", "retryable": False,
        }  # fmt: skip
        return httpx2.Response(412, json=problem, headers={"Content-Type": "application/problem+json"})

    client = httpx2.Client(transport=httpx2.MockTransport(handle), base_url="http://teacher.test")
    teacher = NativeTeacher(Transport(client), "fake", manners=Manners(5, requests_in_flight=2))
    told = r"disclosure 'top-k:3;decimals=2' and no other, but: .*this key's is 'label' now.*keys set.*distill resume"
    for _ in range(2):
        assert Disclosure.parse(teacher.card().disclosure)
        with pytest.raises(TeacherChanged, match=told) as no:
            teacher.label(np.zeros((2, 4, 4, 1), np.uint8), "key-1")
        assert no.value.exit_code == 8
    assert heard == ["top-k:3;decimals=2"] * 2
    teacher.close()
