"""The time that events carry, and times as people write them."""

from datetime import UTC, date, datetime, time, timedelta


def moment() -> datetime:
    """The present, in UTC. Everything in the ledger that asks for the time asks here."""
    return datetime.now(UTC)


def now() -> str:
    """This moment as events carry it: UTC, RFC 3339 with microseconds; sorts as text."""
    return as_text(moment())


def as_text(when: datetime) -> str:
    """A time as events carry it."""
    return when.astimezone(UTC).isoformat(timespec="microseconds")


def parse_time(text: str, *, is_end: bool) -> datetime:
    """A day (its beginning, or where ``is_end`` its end; UTC) or a full RFC 3339 time, in UTC.

    Raises ValueError for anything else, and for a time without its offset from UTC.
    """
    try:
        if len(text) == len("2026-12-31"):
            day = date.fromisoformat(text) + timedelta(days=int(is_end))
            return datetime.combine(day, time.min, UTC)
        when = datetime.fromisoformat(text)
        if when.tzinfo is not None:
            return when.astimezone(UTC)
    except (ValueError, OverflowError) as error:
        raise ValueError("allowed are 2026-12-31 and 2026-12-31T12:00:00+00:00") from error
    raise ValueError("a time needs its offset from UTC, such as +00:00")
