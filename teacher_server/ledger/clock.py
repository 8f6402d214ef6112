"""The time that events carry."""

from datetime import UTC, datetime


def now() -> str:
    """This moment in UTC, RFC 3339 with microseconds; sorts as text."""
    return datetime.now(UTC).isoformat(timespec="microseconds")
