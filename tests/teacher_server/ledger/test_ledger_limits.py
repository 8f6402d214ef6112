"""Images per day and per second: exact, from the times of events, whoever charges."""

import math
import random
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import count

import pytest

from shared.wire.error_codes import ErrorCode
from teacher_server.errors import OperatorError, Refusal
from teacher_server.ledger.databases.database import Database
from teacher_server.ledger.keys.issuing import Key, KeyLimits, create_key, grant_images, list_keys
from teacher_server.ledger.keys.limits import RATE_WINDOW_S
from teacher_server.ledger.keys.policies import change_policy
from teacher_server.ledger.ledger import Ledger
from tests.teacher_server.clocks import Clock
from tests.teacher_server.ledger.soundness import require_sound
from tests.teacher_server.ledger.support import charge, open_ledger
from tests.teacher_server.support import PROBABILITIES, history

UNTIL_MIDNIGHT_S = 12 * 3600
_numbers = count()


@dataclass
class Buyer:
    """Someone whose key has limits."""

    database: Database
    key: Key

    def buy(self, images: int) -> None:
        charge(Ledger(self.database), self.key, f"request-{next(_numbers)}", images)

    def refused(self, images: int, code: ErrorCode) -> Refusal:
        with pytest.raises(Refusal) as refusal:
            self.buy(images)
        assert refusal.value.code is code
        return refusal.value

    def refusals(self) -> list[str]:
        return [event.detail for event in history(self.database, self.key) if event.kind == "refuse"]


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def buyer(database: Database, *, budget: int = 1000, day: int | None = None, second: int | None = None) -> Buyer:
    limits = KeyLimits(day, second)
    key, _ = create_key(database, name="ada", budget=budget, disclosure=PROBABILITIES, expires_at=None, limits=limits)
    return Buyer(database, key)


@pytest.fixture
def daily(database: Database, clock: Clock) -> Buyer:
    return buyer(database, day=10)


@pytest.fixture
def slow(database: Database, clock: Clock) -> Buyer:
    """20 images in any 10 seconds."""
    return buyer(database, second=2)


def test_a_day_s_images_come_back_at_midnight_utc(daily: Buyer, clock: Clock) -> None:
    daily.buy(7)
    refusal = daily.refused(4, ErrorCode.DAILY_BUDGET_EXHAUSTED)
    assert refusal.members == {
        "images_per_day": 10, "spent_today": 7, "asked": 4, "retry_after_s": UNTIL_MIDNIGHT_S,
    }  # fmt: skip
    assert refusal.headers["RateLimit"] == f'"lifetime";r=993, "day";r=3;t={UNTIL_MIDNIGHT_S}'
    daily.buy(3)
    clock.forward(UNTIL_MIDNIGHT_S - 0.000001)
    assert daily.refused(1, ErrorCode.DAILY_BUDGET_EXHAUSTED).members["retry_after_s"] == 1
    clock.forward(0.000001)
    daily.buy(10)
    daily.refused(1, ErrorCode.DAILY_BUDGET_EXHAUSTED)
    clock.forward(days=3)
    daily.buy(1)
    daily.buy(9)
    assert require_sound(daily.database)["ada"].spent == 30


def test_the_wait_of_a_day_is_long_enough_and_no_second_longer(daily: Buyer, clock: Clock) -> None:
    daily.buy(10)
    clock.forward(3661.25)
    wait = daily.refused(1, ErrorCode.DAILY_BUDGET_EXHAUSTED).members["retry_after_s"]
    assert isinstance(wait, int)
    clock.forward(wait - 1)
    daily.refused(1, ErrorCode.DAILY_BUDGET_EXHAUSTED)
    clock.forward(1)
    daily.buy(1)


def test_what_can_never_pass_is_told_so(daily: Buyer) -> None:
    refusal = daily.refused(11, ErrorCode.TOO_MANY_IMAGES)
    assert refusal.members == {"images_per_day": 10, "asked": 11}
    assert "images_per_day" in refusal.detail


def test_what_a_window_of_the_rate_can_never_hold(slow: Buyer) -> None:
    refusal = slow.refused(21, ErrorCode.TOO_MANY_IMAGES)
    assert refusal.members == {"images_per_second": 2, "images_per_request_max": 20, "asked": 21}
    slow.buy(20)


def test_the_budget_comes_before_other_limits(database: Database, clock: Clock) -> None:
    ada = buyer(database, budget=8, day=5, second=1)
    ada.refused(9, ErrorCode.BUDGET_EXHAUSTED)
    ada.refused(6, ErrorCode.TOO_MANY_IMAGES)
    ada.buy(5)
    refusal = ada.refused(4, ErrorCode.BUDGET_EXHAUSTED)
    assert refusal.headers == {
        "RateLimit-Policy": '"lifetime";q=8;teacher-unit="images", "day";q=5;w=86400;teacher-unit="images", '
        '"rate";q=10;w=10;teacher-unit="images"',
        "RateLimit": f'"lifetime";r=3, "day";r=0;t={UNTIL_MIDNIGHT_S}, "rate";r=5;t=10',
    }


def test_a_key_without_limits_has_its_budget_only(database: Database, clock: Clock) -> None:
    ada = buyer(database, budget=500)
    ada.buy(500)
    refusal = ada.refused(1, ErrorCode.BUDGET_EXHAUSTED)
    assert refusal.headers["RateLimit"] == '"lifetime";r=0'
    assert refusal.headers["RateLimit-Policy"] == '"lifetime";q=500;teacher-unit="images"'


def test_a_rate_is_a_sliding_window(slow: Buyer, clock: Clock) -> None:
    slow.buy(8)
    clock.forward(4)
    slow.buy(12)
    refusal = slow.refused(1, ErrorCode.RATE_LIMITED)
    assert refusal.members == {
        "images_per_second": 2, "window_s": 10, "spent_in_window": 20, "asked": 1, "retry_after_s": 6,
    }  # fmt: skip
    assert slow.refused(8, ErrorCode.RATE_LIMITED).members["retry_after_s"] == 6
    assert slow.refused(9, ErrorCode.RATE_LIMITED).members["retry_after_s"] == 10
    clock.forward(5.999)
    assert slow.refused(8, ErrorCode.RATE_LIMITED).members["retry_after_s"] == 1
    clock.forward(0.001)
    slow.buy(8)
    assert slow.refused(1, ErrorCode.RATE_LIMITED).members["retry_after_s"] == 4


def test_no_window_ever_holds_more_and_every_wait_is_exact(slow: Buyer, clock: Clock) -> None:
    """A random buyer beside a list of what it bought: refused when the window is full, for exactly so long."""
    rng = random.Random(4)
    bought: list[tuple[datetime, int]] = []

    def fits(images: int, at: datetime) -> bool:
        return sum(n for when, n in bought if when > at - timedelta(seconds=RATE_WINDOW_S)) + images <= 20

    refused = 0
    for _ in range(120):
        clock.forward(rng.choice([0, 0.000001, 0.4, 1, 2.5, 7]))
        images = rng.randint(1, 20)
        if fits(images, clock.now):
            slow.buy(images)
            bought.append((clock.now, images))
            continue
        refused += 1
        wait = slow.refused(images, ErrorCode.RATE_LIMITED).members["retry_after_s"]
        frees = next(
            when + timedelta(seconds=RATE_WINDOW_S)
            for when, _ in bought
            if when + timedelta(seconds=RATE_WINDOW_S) > clock.now
            and fits(images, when + timedelta(seconds=RATE_WINDOW_S))
        )
        assert wait == max(1, math.ceil((frees - clock.now).total_seconds()))
    assert refused > 20
    assert len(bought) > 20
    require_sound(slow.database)


@pytest.mark.parametrize("ledger_kind", ["postgresql"])
def test_in_real_time_who_waits_as_told_is_answered(database: Database) -> None:
    """Nobody stops this clock."""
    ada = buyer(database, second=1)
    ada.buy(4)
    time.sleep(9)
    ada.buy(6)
    wait = ada.refused(4, ErrorCode.RATE_LIMITED).members["retry_after_s"]
    assert wait == 1
    time.sleep(wait)
    ada.buy(4)
    assert ada.refused(1, ErrorCode.RATE_LIMITED).members["retry_after_s"] in (8, 9)


def test_a_clock_that_is_set_back_frees_nothing_before_its_time(slow: Buyer, clock: Clock) -> None:
    slow.buy(20)
    clock.forward(-60)
    assert slow.refused(1, ErrorCode.RATE_LIMITED).members["retry_after_s"] == 70
    clock.forward(70)
    slow.buy(20)
    require_sound(slow.database)


def test_a_clock_that_is_set_back_over_midnight_gives_no_day_twice(daily: Buyer, clock: Clock) -> None:
    daily.buy(10)
    clock.forward(days=1)
    daily.buy(10)
    clock.forward(days=-1)
    wait = daily.refused(1, ErrorCode.DAILY_BUDGET_EXHAUSTED).members["retry_after_s"]
    assert wait == UNTIL_MIDNIGHT_S + 86_400
    clock.forward(days=1)
    daily.refused(1, ErrorCode.DAILY_BUDGET_EXHAUSTED)
    clock.forward(days=1)
    daily.buy(10)


def test_limits_may_be_lowered_below_what_is_spent(daily: Buyer, clock: Clock) -> None:
    daily.buy(9)
    change_policy(daily.database, name="ada", changes={"images_per_day": 4})
    refusal = daily.refused(1, ErrorCode.DAILY_BUDGET_EXHAUSTED)
    assert (refusal.members["images_per_day"], refusal.members["spent_today"]) == (4, 9)
    assert '"day";r=0' in refusal.headers["RateLimit"]
    change_policy(daily.database, name="ada", changes={"images_per_day": None})
    daily.buy(100)


def test_a_limit_set_later_counts_what_was_bought_before_it(database: Database, clock: Clock) -> None:
    ada = buyer(database)
    ada.buy(9)
    change_policy(database, name="ada", changes={"images_per_day": 10})
    ada.refused(2, ErrorCode.DAILY_BUDGET_EXHAUSTED)
    ada.buy(1)


def test_a_refusal_of_a_day_is_told_once_and_on_the_next_day_again(daily: Buyer, clock: Clock) -> None:
    daily.buy(10)
    for _ in range(5):
        daily.refused(1, ErrorCode.DAILY_BUDGET_EXHAUSTED)
    assert daily.refusals() == ["daily_budget_exhausted"]
    clock.forward(days=1)
    daily.buy(10)
    for _ in range(5):
        daily.refused(1, ErrorCode.DAILY_BUDGET_EXHAUSTED)
    assert daily.refusals() == ["daily_budget_exhausted"] * 2


def test_asking_too_much_in_two_ways_by_turns_does_not_grow_the_chain(database: Database, clock: Clock) -> None:
    ada = buyer(database, budget=15, day=10)
    ada.buy(10)
    for _ in range(5):
        ada.refused(1, ErrorCode.DAILY_BUDGET_EXHAUSTED)
        ada.refused(6, ErrorCode.BUDGET_EXHAUSTED)
    assert ada.refusals() == ["daily_budget_exhausted", "budget_exhausted"]
    grant_images(database, name="ada", images=1)
    ada.refused(7, ErrorCode.BUDGET_EXHAUSTED)
    assert len(ada.refusals()) == 3
    require_sound(database)


def test_a_rate_s_refusals_leave_no_trace(slow: Buyer) -> None:
    slow.buy(20)
    for _ in range(5):
        slow.refused(1, ErrorCode.RATE_LIMITED)
    assert slow.refusals() == []


@pytest.mark.parametrize(
    ("limits", "code"),
    [(KeyLimits(images_per_day=37), "daily_budget_exhausted"), (KeyLimits(images_per_second=4), "rate_limited")],
    ids=["day", "rate"],
)
def test_no_race_passes_a_window_by_one_image(
    database: Database, ledger_url: str, clock: Clock, limits: KeyLimits, code: str
) -> None:
    quota = limits.images_per_day or 40
    key, _ = create_key(database, name="ada", budget=1000, disclosure=PROBABILITIES, expires_at=None, limits=limits)
    barrier = threading.Barrier(8)

    def work(number: int) -> int:
        rng, bought = random.Random(number), 0
        with closing(open_ledger(ledger_url)) as other:  # as a process of its own would
            ledger = Ledger(database if number % 2 else other)
            barrier.wait(timeout=60)
            for turn in range(12):
                images = rng.randint(1, 3) if turn < 8 else 1
                try:
                    charge(ledger, key, f"{number}-{turn}", images)
                    bought += images
                except Refusal as refusal:
                    assert refusal.code == code  # noqa: PT017 - both outcomes are right
        return bought

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(work, range(8))) == quota
    assert require_sound(database)["ada"].spent == quota


def test_before_any_work_is_done_what_is_in_flight_counts_too(daily: Buyer) -> None:
    ledger = Ledger(daily.database)
    daily.buy(4)
    ledger.require_room(daily.key, 3, ahead=3)
    with pytest.raises(Refusal) as refusal:
        ledger.require_room(daily.key, 3, ahead=4)
    assert refusal.value.code is ErrorCode.OVERLOADED, "those in flight may fail yet"
    assert refusal.value.headers == {}
    with pytest.raises(Refusal) as refusal:
        ledger.require_room(daily.key, 7, ahead=0)
    assert refusal.value.code is ErrorCode.DAILY_BUDGET_EXHAUSTED


def test_before_any_work_is_done_a_rate_waits_for_what_is_in_flight(slow: Buyer, clock: Clock) -> None:
    ledger = Ledger(slow.database)
    slow.buy(10)
    clock.forward(3)
    ledger.require_room(slow.key, 5, ahead=5)
    for images, ahead, wait in ((5, 6, 7), (10, 5, 7), (15, 5, 7), (16, 5, 10), (1, 20, 10)):
        with pytest.raises(Refusal) as refusal:
            ledger.require_room(slow.key, images, ahead=ahead)
        assert refusal.value.code is ErrorCode.RATE_LIMITED
        assert refusal.value.members["retry_after_s"] == wait, (images, ahead)


@pytest.mark.parametrize(
    ("limits", "named"),
    [
        (KeyLimits(images_per_day=0), "images_per_day is 0"),
        (KeyLimits(images_per_day=2**53), "images_per_day is 9007199254740992"),
        (KeyLimits(images_per_second=-1), "images_per_second is -1"),
        (KeyLimits(images_per_second=10**9 + 1), "images_per_second is 1000000001"),
    ],
)
def test_limits_that_are_not_allowed(database: Database, limits: KeyLimits, named: str) -> None:
    with pytest.raises(OperatorError, match=named):
        create_key(database, name="ada", budget=1, disclosure=PROBABILITIES, expires_at=None, limits=limits)
    assert list_keys(database) == []


def test_a_key_s_limits_stand_in_its_first_event(database: Database) -> None:
    ada = buyer(database, day=3)
    assert ada.key.limits == KeyLimits(images_per_day=3) == list_keys(database)[0].limits
    assert history(database, ada.key)[0].detail == '{"images_per_day":3}'
