"""Several processes on one ledger file, and processes killed while they charge."""

import json
import os
import random
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from teacher_server.errors import Refusal
from teacher_server.ledger.databases.database import Database
from teacher_server.ledger.keys.issuing import grant_images, list_keys
from teacher_server.ledger.ledger import Ledger
from tests.ledger_places import LedgerPlace, postgresql_place, sqlite_place
from tests.reliability.processes import ForkServer, Program, wait_until
from tests.teacher_server.ledger.soundness import require_sound
from tests.teacher_server.ledger.support import charge
from tests.teacher_server.support import history, new_key

WORKERS = ForkServer("tests.teacher_server.ledger.worker:main")


@dataclass(frozen=True)
class Worker:
    """A process that charges its batches once the file ``go`` is there."""

    process: Program
    go: Path
    said: Path

    def outcomes(self) -> list[dict[str, Any]]:
        """What it has said so far."""
        return [json.loads(line) for line in self.said.read_text().splitlines(keepends=True) if line.endswith("\n")]


@contextmanager
def worker(folder: Path, ledger_url: str, name: str, batches: list[int]) -> Iterator[Worker]:
    log, go = folder / f"{name}.log", folder / "go"
    log.with_suffix(".out").touch()
    process = WORKERS.start("worker", ledger_url, name, go, *batches, log=log, env=dict(os.environ))
    try:
        yield Worker(process, go, log.with_suffix(".out"))
    finally:
        process.kill()


def test_processes_share_one_budget_while_the_owner_grants(
    database: Database, ledger_url: str, tmp_path: Path
) -> None:
    key = new_key(database, budget=40)
    rng = random.Random(2)
    batches = [[rng.randint(1, 6) for _ in range(12)] for _ in range(3)]
    grants, bought_here = [3, 1, 7, 2, 5], 0
    with ExitStack() as stack:
        workers = [
            stack.enter_context(worker(tmp_path, ledger_url, f"w{i}", batch)) for i, batch in enumerate(batches)
        ]
        (tmp_path / "go").touch()
        for images in grants:
            grant_images(database, name="ada", images=images)
            with suppress(Refusal):  # when the others were quicker to use up the grant
                bought_here += charge(Ledger(database), key, f"owner-{images}", 1).event.images
        assert [each.process.wait(60) for each in workers] == [0, 0, 0]
        found = [outcome for each in workers for outcome in each.outcomes()]
    assert len(found) == sum(map(len, batches))
    with suppress(Refusal):  # the owner may have granted too late for the others: what is left is bought one by one
        for number in range(100):
            bought_here += charge(Ledger(database), key, f"rest-{number}", 1).event.images
    bought = sum(outcome.get("images", 0) for outcome in found) + bought_here
    after = list_keys(database)[0]
    assert after.granted == 40 + sum(grants) < sum(map(sum, batches))
    assert bought == after.spent == after.granted
    assert {outcome["refused"] for outcome in found if "refused" in outcome} == {"budget_exhausted"}
    kinds = Counter(event.kind for event in history(database, key))
    assert kinds["grant"] == len(grants)
    assert kinds["answer"] == bought_here + sum("images" in outcome for outcome in found)
    assert kinds["refuse"] <= 1 + len(grants) + kinds["answer"], "one at most until something changes"
    require_sound(database)


def test_all_who_open_a_new_ledger_at_once_find_the_same_one(place: LedgerPlace, tmp_path: Path) -> None:
    """Each has connections of its own, as processes do; who loses the race to make the tables finds them made."""
    with ThreadPoolExecutor(6) as pool:
        for turn in range(4):
            folder = tmp_path / str(turn)
            folder.mkdir()
            fresh = postgresql_place(folder, place.postgresql) if place.postgresql else sqlite_place(folder)
            barrier = threading.Barrier(6)

            def open_and_create(
                number: int, fresh: LedgerPlace = fresh, barrier: threading.Barrier = barrier
            ) -> None:
                barrier.wait(timeout=30)
                with fresh.open(create=True) as database:
                    new_key(database, f"key-{number}")

            list(pool.map(open_and_create, range(6)))
            with fresh.open() as database:
                assert len(list_keys(database)) == 6
                require_sound(database)


@pytest.mark.parametrize("charges_before_the_end", [1, 4, 9])
def test_a_killed_process_leaves_whole_charges_only(
    database: Database, ledger_url: str, tmp_path: Path, charges_before_the_end: int
) -> None:
    key = new_key(database, budget=10_000)
    with worker(tmp_path, ledger_url, "w", [3] * 2000) as killed:
        killed.go.touch()
        wait_until(lambda: len(killed.outcomes()) >= charges_before_the_end, pause_s=0.001)
        assert killed.process.kill()
        said = killed.outcomes()
    events = history(database, key)[1:]
    assert len(said) <= len(events) <= len(said) + 1, "at most the charge whose answer was not said yet"
    assert [event.idempotency_key for event in events][: len(said)] == [outcome["asked"] for outcome in said]
    require_sound(database)
    # asking again for everything costs nothing, and the next charge continues the chain
    spent = list_keys(database)[0].spent
    assert all(charge(Ledger(database), key, event.idempotency_key, 3).is_replay for event in events)
    assert list_keys(database)[0].spent == spent
    charge(Ledger(database), key, "next", 1)
    require_sound(database)
