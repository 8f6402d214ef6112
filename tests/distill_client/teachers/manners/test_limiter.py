"""How many requests are out at once: bounds, halving, recovery, pauses, and no thread left waiting."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from unittest import mock

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distill_client.teachers.manners import limiter as limiter_module
from distill_client.teachers.manners.limiter import Limiter, NoPlace, Place


class Clock:
    """Time that passes when it is told to."""

    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Iterator[Clock]:
    found = Clock()
    with mock.patch.object(limiter_module, "time", found):
        yield found


STEPS = st.lists(st.sampled_from(["take", "answer", "push", "fail", "tick"]), max_size=200)


@settings(max_examples=150, deadline=None)
@given(most=st.integers(1, 64), steps=STEPS, data=st.data())
def test_never_more_out_than_the_limit_and_one_halving_per_volley(
    most: int, steps: list[str], data: st.DataObject
) -> None:
    """Places are taken and given back in any order, one step at a time, beside a model of the limit."""
    clock = Clock()
    with mock.patch.object(limiter_module, "time", clock):
        limiter = Limiter(most)
        out: list[tuple[ExitStack, Place]] = []
        limit, halved_at = float(most), 0.0
        for step in steps:
            clock.now += 0.001
            if step == "take" and len(out) < limiter.limit:
                stack = ExitStack()
                out.append((stack, stack.enter_context(limiter.place(1))))
            elif step == "take":
                taken = len(out)
                with pytest.raises(NoPlace), limiter.place(0):
                    raise AssertionError("a place beyond the limit")
                assert len(out) == taken
            elif step == "tick":
                clock.now += 1
            elif out:
                stack, place = out.pop(data.draw(st.integers(0, len(out) - 1)))
                if step == "push":
                    if place.had_at >= halved_at:
                        limit, halved_at = max(1.0, limit / 2), clock.now
                    limiter.pushed_back(place.had_at)
                stack.close()
                if step == "answer":
                    limit = min(most, limit + 1 / limit)
                    limiter.succeeded()
            assert limiter.limit == int(limit)
            assert 1 <= limiter.limit <= most
        for stack, _ in out:
            stack.close()


@pytest.mark.parametrize("most", [1, 2, 7, 64])
def test_it_recovers_to_most_after_as_many_limitfuls(most: int, clock: Clock) -> None:
    limiter = Limiter(most)
    for _ in range(10):
        clock.now += 1
        limiter.pushed_back(clock.now)
    assert limiter.limit == 1
    answers = 0
    while limiter.limit < most and answers < most * (most + 1):
        limiter.succeeded()
        answers += 1
    assert limiter.limit == most
    assert answers >= most - 1  # additive: no limit grows by more than one for a limitful


def test_a_volley_that_is_pushed_back_as_a_whole_halves_once(clock: Clock) -> None:
    limiter = Limiter(64)
    with ExitStack() as volley:
        places = [volley.enter_context(limiter.place(1)) for _ in range(64)]
        clock.now += 1
        for place in places:
            limiter.pushed_back(place.had_at)
    assert limiter.limit == 32
    with limiter.place(1) as next_place:
        limiter.pushed_back(next_place.had_at)
    assert limiter.limit == 16


def run_threads(count: int, work: Callable[[int], None]) -> None:
    errors: list[BaseException] = []

    def guarded(number: int) -> None:
        try:
            work(number)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=guarded, args=(number,), daemon=True) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert not [thread for thread in threads if thread.is_alive()], "a thread waits for ever"
    if errors:
        raise errors[0]


def test_no_wakeup_is_lost_with_64_threads_under_pushes_pauses_and_failures() -> None:
    limiter = Limiter(8)
    lock = threading.Lock()
    out = most_out = done = 0

    def work(number: int) -> None:
        nonlocal out, most_out, done
        for turn in range(20):
            with limiter.place(20) as place:
                with lock:
                    out += 1
                    most_out = max(most_out, out)
                time.sleep(0.0005)
                if (number + turn) % 17 == 0:
                    limiter.pushed_back(place.had_at, 0.002)
                with lock:
                    out -= 1
            limiter.succeeded()
            with lock:
                done += 1

    run_threads(64, work)
    assert done == 64 * 20
    assert most_out <= 8
    with ExitStack() as stack:  # and every place was given back
        for _ in range(limiter.limit):
            stack.enter_context(limiter.place(0))


def test_a_pause_holds_everyone_and_ends() -> None:
    limiter = Limiter(16)
    limiter.pause(0.3)
    began = time.monotonic()
    had: list[float] = []

    def work(_: int) -> None:
        asked = time.monotonic() - began
        with limiter.place(5) as place:
            had.append(time.monotonic() - began)
            assert place.waited_s >= 0.29 - asked

    run_threads(32, work)
    assert len(had) == 32
    assert min(had) >= 0.29
    assert max(had) < 3


def test_a_shorter_pause_does_not_end_a_longer_one(clock: Clock) -> None:
    limiter = Limiter(1)
    limiter.pause(100)
    limiter.pause(1)
    with pytest.raises(NoPlace, match="another 100 s") as refused, limiter.place(10):
        pass
    assert refused.value.after_s == 100


def test_a_pause_that_begins_while_threads_wait_holds_nobody_beyond_his_patience() -> None:
    limiter = Limiter(1)
    refused: list[float] = []

    def waits(_: int) -> None:
        began = time.monotonic()
        try:
            with limiter.place(5):
                raise AssertionError("there is no place")
        except NoPlace:
            refused.append(time.monotonic() - began)

    def begin_pause() -> None:
        time.sleep(0.1)
        limiter.pause(3600)

    with limiter.place(1):
        pauser = threading.Thread(target=begin_pause)
        pauser.start()
        run_threads(8, waits)
        pauser.join()
    assert len(refused) == 8
    assert max(refused) < 2


def test_who_waits_behind_a_dead_teacher_gives_up_and_behind_a_slow_one_does_not() -> None:
    limiter = Limiter(1)
    with limiter.place(1):
        began = time.monotonic()
        with pytest.raises(NoPlace, match=r"no request has been answered for 0\.2 s"), limiter.place(0.2):
            pass
        assert 0.19 < time.monotonic() - began < 2

    def slow_but_alive() -> None:
        for _ in range(6):
            with limiter.place(5):
                time.sleep(0.1)
            limiter.succeeded()

    thread = threading.Thread(target=slow_but_alive)
    with limiter.place(5):
        thread.start()
    time.sleep(0.02)
    got = 0
    for _ in range(5):
        with limiter.place(0.5):
            got += 1
    thread.join()
    assert got == 5
