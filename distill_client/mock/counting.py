"""The mock's own count, image by image: what a test compares a client's books with."""

import threading
from collections import Counter
from collections.abc import Sequence
from typing import Any


class Counts:
    """Used from any thread. An image is known by its SHA-256 over shape and bytes (``shared.wire.images``)."""

    def __init__(self, *, honours_idempotency: bool) -> None:
        self.honours_idempotency = honours_idempotency
        self._lock = threading.Lock()
        self._requests = 0
        self._charged: Counter[str] = Counter()
        self._answered: Counter[str] = Counter()
        self._faults: Counter[str] = Counter()
        self._paid_keys: set[tuple[str, tuple[bytes, ...]]] = set()

    def next_request(self) -> int:
        """Count a request for images; its number, from 1."""
        with self._lock:
            self._requests += 1
            return self._requests

    def befell(self, fault: str) -> None:
        """Count a fault."""
        with self._lock:
            self._faults[fault] += 1

    def charge(self, digests: Sequence[bytes], idempotency_key: str) -> None:
        """Charge every image, once more for each time it comes in; the same call under the same key only once, if so
        told."""
        with self._lock:
            call = (idempotency_key, tuple(digests))
            if self.honours_idempotency and idempotency_key and call in self._paid_keys:
                return
            self._paid_keys.add(call)
            self._charged.update(digest.hex() for digest in digests)

    def answered(self, digests: Sequence[bytes]) -> None:
        """Count every image as answered: the reply went out whole, whether or not anybody has read it."""
        with self._lock:
            self._answered.update(digest.hex() for digest in digests)

    def as_json(self) -> dict[str, Any]:
        """What is shown at /mock/counts."""
        with self._lock:
            return {
                "requests": self._requests,
                "charged_images": self._charged.total(),
                "answered_images": self._answered.total(),
                "faults": dict(self._faults),
                "charged": dict(self._charged),
                "answered": dict(self._answered),
            }
