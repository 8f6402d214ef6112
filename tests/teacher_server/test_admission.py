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
from teacher_server.ledger.keys.issuing import Key

ADA = Key(1, "ada", Disclosure("label"), granted=10, spent=4, created_at="", expires_at=None, revoked_at=None)
BOB = replace(ADA, id=2, name="bob")


def places(requests: int = 10, *, per_key: int = 10) -> Admission:
    return Admission(requests_max=requests, requests_per_key_max=per_key)


def overloaded(admission: Admission, key: Key) -> str:
    with pytest.raises(Refusal) as refusal, admission.request(key):
        pass
    assert refusal.value.code is ErrorCode.OVERLOADED
    return refusal.value.detail


def test_requests_have_places() -> None:
    admission = places(2)
    with admission.request(ADA):
        with admission.request(BOB):
            assert overloaded(admission, BOB) == overloaded(admission, ADA)
        with admission.request(ADA):
            pass


def test_one_key_does_not_take_the_places_of_all() -> None:
    admission = places(3, per_key=2)
    with admission.request(ADA), admission.request(ADA):
        assert "of this key" in overloaded(admission, ADA)
        with admission.request(BOB):
            assert "of this key" not in overloaded(admission, BOB)
    with admission.request(ADA), admission.request(ADA):
        pass


def test_a_failed_request_gives_its_place_back() -> None:
    admission = places(1, per_key=1)
    for _ in range(3):
        with pytest.raises(ZeroDivisionError), admission.request(ADA):
            raise ZeroDivisionError
        with pytest.raises(ZeroDivisionError), admission.images(ADA, 6):
            raise ZeroDivisionError
    with admission.request(ADA), admission.images(ADA, 6) as ahead:
        assert ahead == 0


def test_images_in_flight_are_counted_by_key() -> None:
    admission = places()
    with admission.images(ADA, 4) as first:
        with admission.images(ADA, 2) as second, admission.images(BOB, 6) as other, admission.images(ADA, 1) as third:
            assert (first, second, other, third) == (0, 4, 0, 6)
        with admission.images(ADA, 2) as later:
            assert later == 4


def test_of_many_threads_at_once_each_knows_who_was_before_it() -> None:
    admission, lock = places(3), threading.Lock()
    held = most = 0
    ahead_of: list[int] = []
    barrier = threading.Barrier(8)

    def work(number: int) -> bool:
        nonlocal held, most
        try:
            with admission.request(ADA if number % 2 else BOB):
                with lock:
                    held += 1
                    most = max(most, held)
                with lock:
                    held -= 1
        except Refusal:
            return False
        return True

    def stay(_: int) -> None:
        with admission.images(ADA, 5) as ahead:
            ahead_of.append(ahead)
            barrier.wait(timeout=30)

    with ThreadPoolExecutor(8) as pool:
        assert any(pool.map(work, range(400)))
        list(pool.map(stay, range(8)))
    assert most <= 3
    assert sorted(ahead_of) == list(range(0, 40, 5))
    with ExitStack() as stack:
        for _ in range(3):
            stack.enter_context(admission.request(ADA))
        assert stack.enter_context(admission.images(ADA, 1)) == 0
