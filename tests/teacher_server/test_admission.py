"""Who may start work now: nothing here decides a charge, and nothing that failed keeps its place."""

import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace

import pytest

from shared.wire.contracts import Disclosure
from shared.wire.error_codes import ErrorCode
from teacher_server.admission import Admission
from teacher_server.errors import Refusal
from teacher_server.ledger.keys import Key

ADA = Key(1, "ada", Disclosure("label"), granted=10, spent=4, created_at="", expires_at=None, revoked_at=None)
BOB = replace(ADA, id=2, name="bob")


def test_requests_have_places() -> None:
    admission = Admission(requests_max=2)
    with admission.request():
        with admission.request(), pytest.raises(Refusal) as refusal, admission.request():
            pass
        assert refusal.value.code is ErrorCode.OVERLOADED
        with admission.request():
            pass


def test_a_failed_request_gives_its_place_back() -> None:
    admission = Admission(requests_max=1)
    for _ in range(3):
        with pytest.raises(ZeroDivisionError), admission.request():
            raise ZeroDivisionError
        with pytest.raises(ZeroDivisionError), admission.images(ADA, 6):
            raise ZeroDivisionError
    with admission.request(), admission.images(ADA, 6):
        pass


def test_images_have_room_in_their_own_key_s_budget_only() -> None:
    admission = Admission(requests_max=10)
    with admission.images(ADA, 4):
        with (
            admission.images(ADA, 2),
            admission.images(BOB, 6),
            pytest.raises(Refusal) as refusal,
            admission.images(ADA, 1),
        ):
            pass
        assert refusal.value.code is ErrorCode.OVERLOADED
        with admission.images(ADA, 2):
            pass
        with pytest.raises(Refusal) as refusal, admission.images(ADA, 7):
            pass
        assert refusal.value.code is ErrorCode.BUDGET_EXHAUSTED
        assert refusal.value.members == {"granted": 10, "spent": 4, "asked": 7}


def test_a_grant_makes_room_at_once() -> None:
    admission = Admission(requests_max=10)
    with admission.images(ADA, 6), admission.images(replace(ADA, granted=13), 3):
        pass


def test_many_threads_at_once_never_hold_more_than_there_is() -> None:
    admission, lock = Admission(requests_max=3), threading.Lock()
    held = most = 0

    def work(_: int) -> bool:
        nonlocal held, most
        try:
            with ExitStack() as stack:
                stack.enter_context(admission.request())
                stack.enter_context(admission.images(ADA, 2))
                with lock:
                    held += 1
                    most = max(most, held)
                with lock:
                    held -= 1
        except Refusal:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        assert any(pool.map(work, range(400)))
    assert most <= 3
    with ExitStack() as stack:
        for _ in range(3):
            stack.enter_context(admission.request())
            stack.enter_context(admission.images(ADA, 2))
