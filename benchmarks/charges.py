"""How many charges a ledger keeps durably in a second: `make bench`.

One-image charges under one key, from 1, 16 and 64 threads, on SQLite (synchronous=FULL, commits shared as in
`teacher serve`) and on a PostgreSQL of its own; beside a plain loop that does one fsync per charge and nothing else.
Then the same with a commit that takes 5 ms more, a simulated slower disk, for both sides alike. Everything is
measured in one run on one machine, so only the ratios mean something.
"""

import os
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from sqlalchemy import Engine, event

from shared.wire.contracts import Disclosure
from teacher_server.ledger.charging.answers import Question
from teacher_server.ledger.charging.charge import Computed
from teacher_server.ledger.databases.database import Database
from teacher_server.ledger.keys.issuing import Key, create_key
from teacher_server.ledger.ledger import Ledger
from teacher_server.ledger.lifecycle.opening import open_database
from tests.postgresql import PostgreSQL

SECONDS = 3.0
IN_FLIGHT = (1, 16, 64)
SLOWER_COMMIT_S = 0.005
_ANSWER = Computed("1", 1, np.full((1, 10), np.float32(0.1)), b"fingerprints", "0" * 64)


def main() -> None:
    """Print charges per second, and their ratio to the plain loop."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        postgresql = PostgreSQL()
        try:
            for slower_s in (0.0, SLOWER_COMMIT_S):
                _measure_all(folder, postgresql, slower_s)
        finally:
            postgresql.stop()


def _measure_all(folder: Path, postgresql: PostgreSQL, slower_s: float) -> None:
    if slower_s:
        print(
            f"\na slower disk, simulated: every commit and every fsync of the loop takes {slower_s * 1000:g} ms more"
        )
    loop = _plain_loop(folder / "loop", slower_s)
    print(f"{'one fsync per charge, nothing else':<42} {loop:>8,.0f} a second   {1:>6.2f} of the loop")
    for name in ("SQLite FULL", "PostgreSQL"):
        is_sqlite = name.startswith("SQLite")
        url = f"sqlite:///{folder}/{slower_s}.db" if is_sqlite else postgresql.new_database()
        database = open_database(url, create=True, signing_key=folder / f"{name}-{slower_s}.pem")
        with _slower_commits(slower_s):
            database.share_commits()
            for threads in IN_FLIGHT:
                before = database.shared_commits
                charges, seconds = _charge(database, threads)
                commits = (database.shared_commits - before) / charges if is_sqlite else 1.0
                what = f"{name}, {threads} in flight"
                rate = charges / seconds
                print(
                    f"{what:<42} {rate:>8,.0f} a second   {rate / loop:>6.2f} of the loop   "
                    f"{commits:.3f} commits per charge",
                    flush=True,
                )
        database.close()


def _plain_loop(file: Path, slower_s: float) -> float:
    """Write some bytes and fsync them, again and again: what a charge costs that shares nothing."""
    count, started = 0, time.perf_counter()
    with file.open("wb", buffering=0) as stream:
        while time.perf_counter() - started < SECONDS:
            stream.write(b"x" * 500)
            os.fsync(stream.fileno())
            time.sleep(slower_s) if slower_s else None
            count += 1
    return count / (time.perf_counter() - started)


def _charge(database: Database, threads: int) -> tuple[int, float]:
    """Charge for a while from so many threads; how many charges, and the seconds they took."""
    ledger = Ledger(database)
    name = f"bench-{threads}"
    key, _ = create_key(
        database, name=name, budget=10_000_000, disclosure=Disclosure("probabilities"), expires_at=None
    )
    ends = threading.Event()

    def buy(number: int) -> int:
        count = 0
        while not ends.is_set():
            ledger.charge(_question(key, f"{number}-{count}"), _ANSWER, request_id="bench")
            count += 1
        return count

    started = time.perf_counter()
    with ThreadPoolExecutor(threads) as pool:
        counts = [pool.submit(buy, number) for number in range(threads)]
        time.sleep(SECONDS)
        ends.set()
        charges = sum(count.result() for count in counts)
    return charges, time.perf_counter() - started


def _question(key: Key, idempotency_key: str) -> Question:
    return Question(key, idempotency_key, "bench", "0" * 64)


@contextmanager
def _slower_commits(slower_s: float) -> Iterator[None]:
    wait: Callable[[Any], None] = lambda _: time.sleep(slower_s)  # noqa: E731
    if slower_s:
        event.listen(Engine, "commit", wait)
    try:
        yield
    finally:
        if slower_s:
            event.remove(Engine, "commit", wait)


if __name__ == "__main__":
    main()
