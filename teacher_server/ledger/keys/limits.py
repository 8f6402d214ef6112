"""A key's limits: its budget, and what it may buy per day and per second.

Nothing is counted twice. ``keys.spent`` less what was spent before a window began is what was spent in it, and the
events' times say that; so several servers on one ledger share every limit exactly, and no counter is ever reset.
"""

import math
from dataclasses import dataclass, replace
from datetime import datetime, time, timedelta
from typing import Any

from sqlalchemy import Connection, Select, bindparam, select

from shared.counting import counted
from shared.wire.error_codes import ErrorCode
from shared.wire.rate_limits import RateLimit, rate_limit_headers
from teacher_server.errors import Refusal
from teacher_server.ledger.clock import as_text, moment
from teacher_server.ledger.keys.issuing import Key, KeyLimits, key_from_row
from teacher_server.ledger.tables import events, keys

RATE_WINDOW_S = 10  # images_per_second times this may be bought in any so many seconds
_DAY = timedelta(days=1)
_RATE_WINDOW = timedelta(seconds=RATE_WINDOW_S)
_KEY = select(keys).where(keys.c.id == bindparam("key_id"))
_OF_KEY = events.c.key_id == bindparam("key_id")
_NEWEST_FIRST = (events.c.at.desc(), events.c.id.desc())
_LAST_AT = select(events.c.at).where(_OF_KEY).order_by(events.c.sequence.desc()).limit(1)
_SPENT_BEFORE = select(events.c.spent).where(_OF_KEY, events.c.at < bindparam("at")).order_by(*_NEWEST_FIRST).limit(1)
_SPENT_UNTIL = select(events.c.spent).where(_OF_KEY, events.c.at <= bindparam("at")).order_by(*_NEWEST_FIRST).limit(1)
_FREES = (
    select(events.c.at)
    .where(_OF_KEY, events.c.at > bindparam("at"), events.c.spent >= bindparam("spent"))
    .order_by(events.c.at, events.c.id)
    .limit(1)
)


@dataclass(frozen=True)
class Window:
    """What of ``quota`` images is spent in one window, and the seconds (1 or more) until none of it counts."""

    name: str
    quota: int
    spent: int
    length_s: int
    ends_after_s: int

    @property
    def remaining(self) -> int:
        """Images left; none where the owner lowered the limit below what is spent already."""
        return max(0, self.quota - self.spent)


@dataclass(frozen=True)
class Standing:
    """What all of a key's limits leave it at one moment."""

    granted: int
    spent: int
    day: Window | None = None
    rate: Window | None = None

    @property
    def windows(self) -> list[Window]:
        """The limits beside the budget."""
        return [window for window in (self.day, self.rate) if window]

    def after(self, images: int) -> "Standing":
        """The same once so many images more are charged."""
        day = self.day and replace(self.day, spent=self.day.spent + images)
        rate = self.rate and replace(self.rate, spent=self.rate.spent + images, ends_after_s=RATE_WINDOW_S)
        return replace(self, spent=self.spent + images, day=day, rate=rate)

    @property
    def headers(self) -> dict[str, str]:
        """As the RateLimit header fields say it."""
        lifetime = RateLimit("lifetime", self.granted, self.granted - self.spent)
        return rate_limit_headers([lifetime, *map(_as_rate_limit, self.windows)])


def _as_rate_limit(window: Window) -> RateLimit:
    resets_after_s = window.ends_after_s if window.spent else None
    return RateLimit(window.name, window.quota, window.remaining, window.length_s, resets_after_s)


def read_standing(connection: Connection, key: Key, *, last_at: str | None = None) -> Standing:
    """What its limits leave ``key``, whose row this same transaction has read.

    ``last_at`` is the time of the key's last event, where that is known already.
    """
    limits = key.limits
    if limits == KeyLimits():
        return Standing(key.granted, key.spent)
    present = moment()
    at = _time_of_next_event(connection, key, present, last_at)
    day = rate = None
    if limits.images_per_day is not None:
        begin = datetime.combine(at.date(), time.min, at.tzinfo)
        spent = key.spent - (_scalar(connection, _SPENT_BEFORE, key, begin) or 0)
        day = Window("day", limits.images_per_day, spent, int(_DAY.total_seconds()), _seconds(begin + _DAY - present))
    if limits.images_per_second is not None:
        spent = key.spent - (_scalar(connection, _SPENT_UNTIL, key, at - _RATE_WINDOW) or 0)
        ends_after_s = _seconds(at + _RATE_WINDOW - present)
        rate = Window("rate", limits.images_per_second * RATE_WINDOW_S, spent, RATE_WINDOW_S, ends_after_s)
    return Standing(key.granted, key.spent, day, rate)


def read_present_standing(connection: Connection, key: Key) -> Standing:
    """As ``read_standing``, of a key that was read earlier: its counts and its events have to be of one moment.

    A key that has a budget only is taken as it was read.
    """
    if key.limits == KeyLimits():
        return Standing(key.granted, key.spent)
    return read_standing(connection, reread(connection, key))


def reread(connection: Connection, key: Key) -> Key:
    """The key as it is now."""
    return key_from_row(connection.execute(_KEY, {"key_id": key.id}).mappings().one())


def refuse_by_limits(
    connection: Connection, key: Key, standing: Standing, images: int, *, ahead: int = 0
) -> Refusal | None:
    """Why ``key`` may not buy so many images now; None when it may.

    ``ahead`` images of the same key are being answered and may be charged first. They alone never use up a budget:
    then the refusal is a 503.
    """
    refusal = _refuse(connection, key, standing, images, ahead)
    if refusal and refusal.code is not ErrorCode.OVERLOADED:
        refusal.headers = standing.headers
    return refusal


def _refuse(connection: Connection, key: Key, standing: Standing, images: int, ahead: int) -> Refusal | None:
    remaining = standing.granted - standing.spent
    if images > remaining:
        return _budget_exhausted(standing, images)
    for window in standing.windows:
        if images > window.quota:
            return _never(key, window, images)
    day, rate = standing.day, standing.rate
    if day and images > day.remaining:
        return _daily_budget_exhausted(day, images)
    if rate and images > rate.remaining - ahead:
        return _rate_limited(key, rate, images, retry_after_s=_rate_frees(connection, key, rate, images + ahead))
    if images > remaining - ahead or (day and images > day.remaining - ahead):
        return Refusal(
            ErrorCode.OVERLOADED,
            f"{ahead} images of this key are being answered right now and may use up its budget of "
            f"{min(remaining, day.remaining) if day else remaining} remaining",
        )
    return None


def _budget_exhausted(standing: Standing, images: int) -> Refusal:
    granted, spent = standing.granted, standing.spent
    return Refusal(
        ErrorCode.BUDGET_EXHAUSTED,
        f"{counted(images, 'image')} asked for, {granted - spent} of {granted} remain; ask the owner for a grant",
        granted=granted,
        spent=spent,
        asked=images,
    )


def _never(key: Key, window: Window, images: int) -> Refusal:
    if window.name == "day":
        limit, why = {"images_per_day": window.quota}, f"images_per_day of this key is {window.quota}"
    else:
        limit = {"images_per_second": key.limits.images_per_second or 0, "images_per_request_max": window.quota}
        why = _rate_in_words(key)
    return Refusal(
        ErrorCode.TOO_MANY_IMAGES,
        f"{counted(images, 'image')} asked for, but {why}; send smaller batches",
        **limit,
        asked=images,
    )


def _daily_budget_exhausted(day: Window, images: int) -> Refusal:
    return Refusal(
        ErrorCode.DAILY_BUDGET_EXHAUSTED,
        f"{counted(images, 'image')} asked for, {day.remaining} of {day.quota} per day remain until midnight, UTC",
        images_per_day=day.quota,
        spent_today=day.spent,
        asked=images,
        retry_after_s=day.ends_after_s,
    )


def _rate_limited(key: Key, rate: Window, images: int, *, retry_after_s: int) -> Refusal:
    return Refusal(
        ErrorCode.RATE_LIMITED,
        f"{counted(images, 'image')} asked for, but {_rate_in_words(key)}; ask again in {retry_after_s} s",
        images_per_second=key.limits.images_per_second,
        window_s=RATE_WINDOW_S,
        spent_in_window=rate.spent,
        asked=images,
        retry_after_s=retry_after_s,
    )


def _rate_in_words(key: Key) -> str:
    per_second = key.limits.images_per_second or 0
    return (
        f"images_per_second of this key is {per_second}, {per_second * RATE_WINDOW_S} in any {RATE_WINDOW_S} seconds"
    )


def _rate_frees(connection: Connection, key: Key, rate: Window, wanted: int) -> int:
    """Seconds until so many images have room in the window, if nobody buys any more of them meanwhile.

    Where they have to wait for requests that are still being answered, these are taken to be charged now.
    """
    present = moment()
    at = _time_of_next_event(connection, key, present, None)
    leaving = {"spent": key.spent + wanted - rate.quota}
    found = _scalar(connection, _FREES, key, at - _RATE_WINDOW, **leaving)
    return _seconds((datetime.fromisoformat(found) if found else present) + _RATE_WINDOW - present)


def _time_of_next_event(connection: Connection, key: Key, present: datetime, last_at: str | None) -> datetime:
    """No event is before the one it follows, so where the clock was set back, windows wait until it caught up."""
    if last_at is None:
        last_at = connection.execute(_LAST_AT, {"key_id": key.id}).scalar()
    return max(present, datetime.fromisoformat(last_at)) if last_at else present


def _scalar(connection: Connection, statement: Select[Any], key: Key, at: datetime, **more: int) -> Any:
    return connection.execute(statement, {"key_id": key.id, "at": as_text(at), **more}).scalar()


def _seconds(left: timedelta) -> int:
    """Whole seconds, so many that what is waited for is over then; at least one."""
    return max(1, math.ceil(left.total_seconds()))
