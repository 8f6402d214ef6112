"""Who may start work now: bounds on requests in flight, of all keys and of each; and what each has in flight.

Nothing here decides what is charged. It spares the teacher work that a charge would then refuse, so it may answer
503 or 409 (ask again).
"""

import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from shared.wire.error_codes import ErrorCode
from teacher_server.errors import Refusal
from teacher_server.ledger.keys.issuing import Key


class Admission:
    """Counts what is in flight in this process."""

    def __init__(self, *, requests_max: int, requests_per_key_max: int) -> None:
        self._requests_max = requests_max
        self._requests_per_key_max = requests_per_key_max
        self._requests: Counter[int] = Counter()
        self._images: Counter[int] = Counter()
        self._running: set[tuple[int, str]] = set()
        self._lock = threading.Lock()

    @contextmanager
    def request(self, key: Key) -> Iterator[None]:
        """Hold a place for one request. Raises Refusal(overloaded) when there is none, or none for this key."""
        with self._lock:
            if self._requests.total() >= self._requests_max:
                raise Refusal(ErrorCode.OVERLOADED, f"{self._requests_max} requests are being answered already")
            if self._requests[key.id] >= self._requests_per_key_max:
                raise Refusal(
                    ErrorCode.OVERLOADED,
                    f"{self._requests_per_key_max} requests of this key are being answered already",
                )
            self._requests[key.id] += 1
        try:
            yield
        finally:
            self._give_back(self._requests, key, 1)

    @contextmanager
    def images(self, key: Key, images: int) -> Iterator[int]:
        """Count ``images`` as being answered; gives how many of the same key were so before them."""
        with self._lock:
            ahead = self._images[key.id]
            self._images[key.id] += images
        try:
            yield ahead
        finally:
            self._give_back(self._images, key, images)

    def _give_back(self, held: Counter[int], key: Key, count: int) -> None:
        with self._lock:
            held[key.id] -= count
            if not held[key.id]:
                del held[key.id]

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
