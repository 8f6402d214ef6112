"""A client that wants every answer: it asks under the same idempotency key until it has one, and keeps them all.

It speaks HTTP itself, without `distill_client`, so that what one program forgives the other does not hide.
"""

import itertools
import random
import ssl
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import httpx2

from shared.wire.contracts import HEADER_IDEMPOTENCY_KEY, LabelsAnswer
from shared.wire.images import NPY_MEDIA_TYPE, encode_npy
from tests.teacher_server.support import LABELS, numbered_images, numbers_of

# For plain HTTP: what a client makes for itself reads all authorities first, 40 ms each.
NO_TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
_PAUSE_S = 0.05
_LOST = (httpx2.NetworkError, httpx2.RemoteProtocolError, httpx2.TimeoutException)


@dataclass(frozen=True)
class Wish:
    """One request: some numbered images under one idempotency key."""

    idempotency_key: str
    numbers: tuple[int, ...]


@dataclass(frozen=True)
class Received:
    """What came back for it, byte for byte."""

    wish: Wish
    body: bytes

    @property
    def answer(self) -> LabelsAnswer:
        return LabelsAnswer.model_validate_json(self.body)


@dataclass
class DemandingClient:
    """Asks from several threads. What was refused for good is in ``refused``, what was sent again in ``lost``."""

    url: str
    secret: str
    received: dict[str, Received] = field(default_factory=dict)
    refused: dict[str, dict[str, Any]] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)
    lost: Counter[str] = field(default_factory=Counter)
    requests: int = 0
    in_flight: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def connect(self) -> httpx2.Client:
        return httpx2.Client(
            base_url=self.url,
            headers={"Authorization": f"Bearer {self.secret}", "Content-Type": NPY_MEDIA_TYPE},
            timeout=20,
            verify=NO_TLS,
            limits=httpx2.Limits(max_connections=None),
        )

    def ask(self, connection: httpx2.Client, wish: Wish) -> httpx2.Response:
        content = encode_npy(numbered_images(wish.numbers))
        with self._lock:
            self.requests += 1
            self.in_flight += 1
        try:
            return connection.post(LABELS, content=content, headers={HEADER_IDEMPOTENCY_KEY: wish.idempotency_key})
        finally:
            with self._lock:
                self.in_flight -= 1

    def insist(self, connection: httpx2.Client, wish: Wish) -> None:
        """Ask until there is an answer, or a refusal that asking again would not change."""
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            try:
                response = self.ask(connection, wish)
            except _LOST as error:
                self._count(type(error).__name__)
            else:
                if response.status_code == 200:
                    self._keep(Received(wish, response.content))
                    return
                problem = response.json()
                if not problem["retryable"]:
                    self.refused[wish.idempotency_key] = problem
                    return
                self._count(f"{problem['code']}, charged: {problem.get('charged', 'not said')}")
            time.sleep(_PAUSE_S * random.uniform(0.5, 1.5))
        self.faults.append(f"{wish.idempotency_key}: no answer within a minute")

    def _keep(self, received: Received) -> None:
        wish, answer = received.wish, received.answer
        assert answer.probabilities is not None
        if numbers_of(answer.probabilities) != list(wish.numbers) or answer.charged != len(wish.numbers):
            self.faults.append(f"{wish.idempotency_key}: {wish.numbers} were answered with {answer}")
        earlier = self.received.setdefault(wish.idempotency_key, received)
        if earlier.body != received.body:
            self.faults.append(f"{wish.idempotency_key}: answered with {earlier.body!r} and with {received.body!r}")

    def _count(self, what: str) -> None:
        with self._lock:
            self.lost[what] += 1

    @property
    def images(self) -> int:
        """Images that answers were received for."""
        return sum(len(received.wish.numbers) for received in self.received.values())


class Crowd:
    """Threads that each insist on one wish after another until told to finish; then all they began is answered."""

    def __init__(self, client: DemandingClient, *, threads: int, seed: int, images_max: int, name: str) -> None:
        self._client = client
        self._finish = threading.Event()
        self._counter = itertools.count()
        self._name, self._images_max = name, images_max
        self._threads = [
            threading.Thread(target=self._work, args=(random.Random(f"{seed}-{number}"),))
            for number in range(threads)
        ]
        for thread in self._threads:
            thread.start()

    def _work(self, rng: random.Random) -> None:
        with self._client.connect() as connection:
            while not self._finish.is_set():
                numbers = tuple(rng.randrange(65536) for _ in range(rng.randint(1, self._images_max)))
                self._client.insist(connection, Wish(f"{self._name}-{next(self._counter)}", numbers))

    def finish(self) -> None:
        """Let every thread come to the end of the wish that it is at."""
        self._finish.set()
        for thread in self._threads:
            thread.join(timeout=90)
            assert not thread.is_alive()
