"""A whole teacher over real HTTP that takes so many requests at once and no more: the client finds out how many."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from tests.distill_client.teachers.adapters.vendor import Asked, Reply, vendor
from tests.distill_client.teachers.custom_http.described import a_file, asked_as

MOST, BATCHES = 16, 200


class Crowded:
    """Takes ``capacity`` requests at once, each for a while, and refuses the others at once."""

    def __init__(self, capacity: int, refuse: Reply) -> None:
        self._capacity = capacity
        self._refuse = refuse
        self._lock = threading.Lock()
        self._out = 0
        self.log: list[tuple[int, bool]] = []

    def __call__(self, asked: Asked) -> Reply:
        with self._lock:
            self._out += 1
            out, is_taken = self._out, self._out <= self._capacity
            self.log.append((out, is_taken))
        try:
            if not is_taken:
                return self._refuse
            time.sleep(0.02)
            return Reply([0.7, 0.1, 0.1, 0.1])
        finally:
            with self._lock:
                self._out -= 1


@pytest.mark.parametrize(
    ("capacity", "refuse"), [(2, Reply({}, 503)), (5, Reply({}, 429)), (5, Reply({"__type": "Throttling"}, 400))]
)
def test_the_client_settles_near_what_a_teacher_takes(tmp_path: Path, capacity: int, refuse: Reply) -> None:
    images = np.random.default_rng(0).integers(0, 256, (BATCHES, 1, 5, 6, 3), np.uint8)
    with vendor() as theirs:
        crowded = Crowded(capacity, refuse)
        theirs.answer = crowded
        file = a_file(theirs.url, reply={"scores": "@"}, max_queries=100_000)
        with asked_as(file, tmp_path, deadline_s=30, requests_in_flight=MOST) as (teacher, ledger):
            with ThreadPoolExecutor(MOST) as threads:
                answers = list(threads.map(lambda at: teacher.label(images[at], f"key-{at}"), range(BATCHES)))
            spent = ledger.usage().spent
    assert len(answers) == BATCHES
    assert spent == BATCHES  # every refused call was released
    settled = crowded.log[len(crowded.log) // 4 :]
    refused = sum(not is_taken for _, is_taken in settled) / len(settled)
    out = float(np.mean([out for out, _ in settled]))
    assert capacity / 3 <= out <= capacity + 1, out
    assert refused < 0.3, refused  # unlimited, 16 threads at 5 places would have most of their calls refused
