"""Who may start work now: bounds on requests in flight, and on images in flight per key.

Nothing here decides what is charged. It spares the teacher work that a charge would then refuse, so it may answer
503 or 409 (ask again), and 403 only from what is durably spent.
"""

import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from shared.wire.error_codes import ErrorCode
from teacher_server.errors import Refusal
from teacher_server.ledger.keys import Key
from teacher_server.ledger.refusals import budget_exhausted


class Admission:
    """Counts what is in flight in this process."""

    def __init__(self, *, requests_max: int) -> None:
        self._requests_max = requests_max
        self._requests = 0
        self._images: Counter[int] = Counter()
        self._running: set[tuple[int, str]] = set()
        self._lock = threading.Lock()

    @contextmanager
    def request(self) -> Iterator[None]:
        """Hold a place for one request. Raises Refusal(overloaded) when there is none."""
        with self._lock:
            if self._requests >= self._requests_max:
                raise Refusal(ErrorCode.OVERLOADED, f"{self._requests_max} requests are being answered already")
            self._requests += 1
        try:
            yield
        finally:
            with self._lock:
                self._requests -= 1

    @contextmanager
    def images(self, key: Key, images: int) -> Iterator[None]:
        """Hold room for ``images`` in a key's budget as it was just read.

        Raises Refusal: budget_exhausted when what is durably spent leaves no room, overloaded when only other
        requests in flight stand in the way.
        """
        remaining = key.granted - key.spent
        if images > remaining:
            raise budget_exhausted(granted=key.granted, spent=key.spent, asked=images)
        with self._lock:
            if images > remaining - self._images[key.id]:
                raise Refusal(
                    ErrorCode.OVERLOADED,
                    f"{self._images[key.id]} images of this key are being answered right now and may use up its "
                    f"budget of {remaining} remaining",
                )
            self._images[key.id] += images
        try:
            yield
        finally:
            with self._lock:
                self._images[key.id] -= images
                if not self._images[key.id]:
                    del self._images[key.id]

    @contextmanager
    def first(self, key: Key, idempotency_key: str) -> Iterator[None]:
        """Be the only one that works on this idempotency key. Raises Refusal(still_running) when another does.

        Two of them, in two processes on one ledger, would waste a forward pass and still be charged once.
        """
        place = (key.id, idempotency_key)
        with self._lock:
            if place in self._running:
                raise Refusal(
                    ErrorCode.STILL_RUNNING,
                    f"Idempotency-Key {idempotency_key!r}: its first request is still running; ask again",
                )
            self._running.add(place)
        try:
            yield
        finally:
            with self._lock:
                self._running.discard(place)
