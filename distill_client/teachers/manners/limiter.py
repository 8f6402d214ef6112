"""How many requests may be out at once: fewer when the teacher pushes back, slowly more when it does not."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass


class NoPlace(Exception):
    """Waiting for a place is no use; ``after_s`` is the pause that the teacher wants, where that is why."""

    def __init__(self, message: str, *, after_s: float | None = None) -> None:
        super().__init__(message)
        self.after_s = after_s


@dataclass(frozen=True)
class Place:
    """A place among the requests in flight: when it was had, and how long it was waited for, in seconds."""

    had_at: float
    waited_s: float


class Limiter:
    """Additive increase, multiplicative decrease, of one teacher's requests in flight; used from any thread.

    It starts at ``most``. When the teacher pushes back, the limit is halved, once for all requests that were out by
    then, and grows by one for each limitful of answers. A pause that the teacher asks for holds for every request.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._limit = float(most)
        self._out = 0
        self._halved_at = 0.0
        self._resumes_at = 0.0
        self._answered_at = 0.0
        self._changed = threading.Condition()

    @property
    def limit(self) -> int:
        """How many requests may be out now."""
        with self._changed:
            return int(self._limit)

    @contextmanager
    def place(self, patience_s: float) -> Iterator[Place]:
        """Wait for a place, then hold it.

        Raises NoPlace where the teacher wants a pause longer than ``patience_s``, or where others hold all places and
        none of them has had an answer for so long: a teacher that answers somebody has not failed.
        """
        began = time.monotonic()
        with self._changed:
            while (wait_s := self._must_wait_s(began, patience_s)) is not None:
                self._changed.wait(wait_s)
            self._out += 1
        try:
            had_at = time.monotonic()
            yield Place(had_at, had_at - began)
        finally:
            with self._changed:
                self._out -= 1
                self._changed.notify_all()

    def _must_wait_s(self, began: float, patience_s: float) -> float | None:
        """Seconds until it is worth looking again, at the latest; None when there is a place. Raises NoPlace."""
        now = time.monotonic()
        if (pause_s := self._resumes_at - now) > 0:
            if pause_s > patience_s:
                raise NoPlace(f"the teacher wants no request for another {pause_s:.0f} s", after_s=pause_s)
            return pause_s
        if self._out < int(self._limit):
            return None
        left_s = max(began, self._answered_at, self._resumes_at) + patience_s - now
        if left_s <= 0:
            raise NoPlace(f"no request has been answered for {patience_s:g} s")
        return left_s

    def succeeded(self) -> None:
        """A request was answered."""
        with self._changed:
            self._limit = min(self._most, self._limit + 1 / self._limit)
            self._answered_at = time.monotonic()
            self._changed.notify_all()

    def pushed_back(self, sent_at: float, after_s: float | None = None) -> None:
        """A request that had its place at ``sent_at`` was told to slow down, maybe for ``after_s`` seconds."""
        with self._changed:
            if sent_at >= self._halved_at:  # those that were out together are one warning, not many
                self._limit = max(1.0, self._limit / 2)
                self._halved_at = time.monotonic()
            self.pause(after_s or 0.0)

    def pause(self, seconds: float) -> None:
        """Send nothing for so long; what is out already comes back."""
        with self._changed:
            self._resumes_at = max(self._resumes_at, time.monotonic() + seconds)
            self._changed.notify_all()
