"""Asking again: how long, how soon, and what it may cost."""

import itertools
import random
import statistics
import threading
import time
from collections.abc import Iterator

import pytest
import stamina

from distill_client.errors import TeacherRefused, TeacherUnavailable
from distill_client.teachers.manners.asking import Manners, Uncounted
from distill_client.teachers.manners.patience import Retryable

WHERE = "teacher.test"


@pytest.fixture
def impatient() -> Iterator[None]:
    with stamina.set_testing(True, attempts=50):
        yield


def test_pauses_between_attempts_are_drawn_between_nothing_and_a_bound_that_doubles(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Full jitter: the whole range is used, so that clients who failed together do not come back together."""
    drawn: list[tuple[float, float]] = []

    def uniform(low: float, high: float) -> float:
        drawn.append((low, high))
        return 0.0

    monkeypatch.setattr(random, "uniform", uniform)
    attempts = 0

    def attempt() -> str:
        nonlocal attempts
        attempts += 1
        if attempts <= 8:
            raise Retryable("busy")
        return "answer"

    assert Manners(60, requests_in_flight=1).ask(attempt, where=WHERE) == "answer"
    assert drawn == [(0, 0.4), (0, 0.8), (0, 1.6), (0, 3.2), (0, 6.4), (0, 10.0), (0, 10.0), (0, 10.0)]


def test_real_pauses_are_spread_over_their_range() -> None:
    firsts: list[float] = []

    def once() -> None:
        times: list[float] = []

        def attempt() -> None:
            times.append(time.monotonic())
            if len(times) == 1:
                raise Retryable("busy")

        Manners(5, requests_in_flight=1).ask(attempt, where=WHERE)
        firsts.append(times[1] - times[0])

    threads = [threading.Thread(target=once) for _ in range(40)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert max(firsts) < 1.0
    assert statistics.pstdev(firsts) > 0.05  # uniform over 0.4 s has 0.115


def test_the_deadline_is_of_all_attempts_together() -> None:
    began = time.monotonic()

    def attempt() -> None:
        time.sleep(0.05)
        raise Retryable("busy", charged="unknown")

    with pytest.raises(TeacherUnavailable, match=r"within 0\.5 s") as lost:
        Manners(0.5, requests_in_flight=1).ask(attempt, where=WHERE, purchase=Uncounted())
    assert time.monotonic() - began < 2
    assert lost.value.charged == "unknown"


def test_waiting_threads_end_with_the_teacher_that_never_answers() -> None:
    """16 batches for one place, at a teacher whose every call is lost: all have given up soon after the deadline."""
    manners = Manners(0.6, requests_in_flight=1)
    ended: list[float] = []
    began = time.monotonic()

    def batch() -> None:
        def attempt() -> None:
            time.sleep(0.1)
            raise Retryable("no reply", charged="unknown")

        with pytest.raises(TeacherUnavailable):
            manners.ask(attempt, where=WHERE, purchase=Uncounted())
        ended.append(time.monotonic() - began)

    threads = [threading.Thread(target=batch) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert len(ended) == 16
    assert max(ended) < 6


def test_a_far_pause_of_one_batch_stops_all_of_them_and_says_until_when() -> None:
    manners = Manners(5, requests_in_flight=1)
    messages: list[str] = []
    asked = 0

    def attempt() -> None:
        nonlocal asked
        asked += 1
        time.sleep(0.1)
        raise Retryable("come back tomorrow", after_s=86_400, pressure="throttled")

    def batch() -> None:
        try:
            manners.ask(attempt, where=WHERE, purchase=Uncounted())
        except TeacherUnavailable as error:
            messages.append(str(error))

    threads = [threading.Thread(target=batch) for _ in range(8)]
    began = time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert time.monotonic() - began < 4
    assert len(messages) == 8
    assert all("asks to be left alone until" in message for message in messages)
    assert asked == 1


def test_the_same_pause_does_not_hold_what_is_no_purchase() -> None:
    manners = Manners(5, requests_in_flight=1)
    manners.limiter.pause(3600)
    assert manners.ask(lambda: "card", where=WHERE) == "card"


@pytest.mark.usefixtures("impatient")
def test_a_refusal_is_not_asked_again() -> None:
    asked = 0

    def attempt() -> None:
        nonlocal asked
        asked += 1
        raise TeacherRefused("no")

    with pytest.raises(TeacherRefused):
        Manners(5, requests_in_flight=1).ask(attempt, where=WHERE)
    assert asked == 1


def test_a_throttled_batch_waits_as_told_and_longer_than_the_deadline_in_all() -> None:
    asked: list[float] = []

    def attempt() -> str:
        asked.append(time.monotonic())
        if len(asked) < 5:
            raise Retryable("slow down", after_s=0.2, pressure="throttled")
        return "answer"

    assert Manners(0.4, requests_in_flight=1).ask(attempt, where=WHERE, purchase=Uncounted()) == "answer"
    gaps = [later - sooner for sooner, later in itertools.pairwise(asked)]
    assert min(gaps) >= 0.19
    assert sum(gaps) > 0.7


def test_a_used_up_limit_in_an_answer_holds_the_next_request() -> None:
    manners = Manners(5, requests_in_flight=4)
    manners.heed({"RateLimit": '"rate";r=0;t=1'})
    began = time.monotonic()
    manners.ask(lambda: None, where=WHERE, purchase=Uncounted())
    assert 0.9 < time.monotonic() - began < 3
