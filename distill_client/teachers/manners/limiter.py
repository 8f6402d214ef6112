"""How many requests may be out at once: fewer when the teacher pushes back, slowly more when it does not."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager


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
        self._changed = threading.Condition()

    @property
    def limit(self) -> int:
        """How many requests may be out now."""
        with self._changed:
            return int(self._limit)

    @contextmanager
    def place(self) -> Iterator[float]:
        """Wait for a place, then hold it; gives when it was had, which ``pushed_back`` wants to know."""
        with self._changed:
            while (pause_s := self._resumes_at - time.monotonic()) > 0 or self._out >= int(self._limit):
                self._changed.wait(pause_s if pause_s > 0 else None)
            self._out += 1
        try:
            yield time.monotonic()
        finally:
            with self._changed:
                self._out -= 1
                self._changed.notify_all()

    def succeeded(self) -> None:
        """A request was answered."""
        with self._changed:
            self._limit = min(self._most, self._limit + 1 / self._limit)
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
