"""A clock that stands still until it is told the time."""

from datetime import UTC, datetime, timedelta, tzinfo

import pytest

from teacher_server.ledger import clock

NOON = datetime(2026, 11, 24, 12, tzinfo=UTC)


class Clock:
    """What the ledger takes for the present."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = NOON
        this = self

        class Told(datetime):
            @classmethod
            def now(cls, tz: tzinfo | None = None) -> datetime:  # type: ignore[override]
                return this.now.astimezone(tz)

        monkeypatch.setattr(clock, "datetime", Told)

    def forward(self, seconds: float = 0, *, days: float = 0) -> None:
        """Let time pass; a negative number sets the clock back."""
        self.now += timedelta(seconds=seconds, days=days)
