"""The real `distill run` and `distill resume`, killed with SIGKILL at random moments with 16 requests in flight.

After each kill, while the server stands: the ledger is sound, and every answer that the run has kept is charged in
it. At the end of each run: exactly the planned images are charged, each once, each has its answer in the run, and the
client's own audit finds both sides' counts equal.
"""

import random
import sqlite3
import time
from contextlib import closing
from pathlib import Path

import pytest

from tests.ledger_places import LedgerPlace
from tests.reliability.figures import LONG_KILLS, SHORT_KILLS, Figures
from tests.reliability.processes import ForkServer, Program, Server, wait_until
from tests.teacher_server.ledger.soundness import require_sound

IN_FLIGHT = 16
PLANNED = 600  # images, and requests
KILLS_PER_RUN = 10
SECONDS_PER_CALL = 0.01  # so that there is something in flight to be killed with
CONFIG = f"""
name = "killed"
seed = 3
budget_images = {PLANNED}

[teacher]
name = "digits"
images_per_request = 1
requests_in_flight = {IN_FLIGHT}
deadline_s = 60

[pool]
dataset = "digits"
images = 60

[synthesis]
images = 540
[synthesis.cvae]
epochs = 1

[student]
network = "lenet5-half"
augmentation = "mixup"

[training]
batch_size = 32
steps = 4

[evaluation]
dataset = "digits"
held_out_fraction = 0.1
"""


class ClientLoop:
    """One server that stands; runs that are killed so many times each and then come to their end."""

    def __init__(self, place: LedgerPlace, forks: ForkServer, server: Server, folder: Path, *, seed: int) -> None:
        self.place, self.server, self.folder = place, server, folder
        self.figures = Figures()
        self._forks = forks
        self._rng = random.Random(seed)
        self._config = folder / "config.toml"
        self._config.write_text(CONFIG)
        self.log = folder / "client.log"

    def run(self, kills: int) -> None:
        started = time.monotonic()
        number = 0
        while self.figures.kills < kills:
            self._one_run(f"run-{number}", min(KILLS_PER_RUN, kills - self.figures.kills))
            number += 1
            assert number <= 3 * kills / KILLS_PER_RUN + 3, "most clients end before they are killed"
        self.figures.seconds = time.monotonic() - started

    def _one_run(self, name: str, kills: int) -> None:
        env = {"DISTILL_API_KEY": self.place.new_secret(name, budget=PLANNED)}  # not one image to spare
        run_dir = self.folder / name
        for _ in range(kills):
            client = self._start(run_dir, env)
            self._wait_for_a_moment(client, run_dir)
            in_flight = self.server.requests_in_flight()
            if client.kill():
                self.figures.kills += 1
                self.figures.in_flight_at_kill.append(in_flight)
            self._check(name, run_dir)
        code = self._start(run_dir, env).wait()
        if code != 0:
            self.figures.differences.append(f"{name}: exit code {code}: {self.log.read_text()[-500:]}")
        audit = self._forks.start("distill", "audit", run_dir, log=self.log, env=env).wait()
        if audit != 0:
            self.figures.differences.append(f"{name}: audit ends with {audit}: {self.log.read_text()[-500:]}")
        self._check(name, run_dir, is_over=True)
        self.figures.images += PLANNED
        self.figures.requests += PLANNED

    def _start(self, run_dir: Path, env: dict[str, str]) -> Program:
        self.figures.starts += 1
        known = ("resume", run_dir) if run_dir.exists() else ("run", self._config, "--out", run_dir)
        where = () if run_dir.exists() else ("--teacher", self.server.url)
        return self._forks.start("distill", *known, *where, log=self.log, env=env)

    def _wait_for_a_moment(self, client: Program, run_dir: Path) -> None:
        """Once it has bought something more, at any moment after; sometimes before, at any moment of its start."""
        if self._rng.random() < 0.1:
            time.sleep(self._rng.uniform(0, 0.5))
            return
        before = len(kept_answers(run_dir))
        wait_until(lambda: client.poll() is not None or len(kept_answers(run_dir)) > before)
        time.sleep(self._rng.uniform(0, 0.12))

    def _check(self, name: str, run_dir: Path, *, is_over: bool = False) -> None:
        kept = kept_answers(run_dir)
        try:
            with self.place.open() as database:
                counted = require_sound(database, name)[name]
            missing = [key for key in kept if counted.images.get(key) != 1]
            assert not missing, f"kept, but not charged: {missing}"
            if is_over:
                assert (counted.spent, len(kept)) == (PLANNED, PLANNED)
                assert set(counted.images) == set(kept)
            self.figures.checks += 1
            self.figures.events_checked += len(counted.events)
        except AssertionError as difference:
            self.figures.differences.append(f"{name}: {difference}")


def kept_answers(run_dir: Path) -> list[str]:
    """The idempotency keys of the run's paid answers, read beside the client; none while there is no store."""
    store = run_dir / "answers.sqlite"
    if not store.exists():
        return []
    try:
        with closing(sqlite3.connect(f"file:{store}?mode=ro", uri=True, timeout=30)) as connection:
            rows = connection.execute("SELECT idempotency_key FROM batches JOIN answers ON batch = number")
            return [row[0] for row in rows]
    except sqlite3.OperationalError:
        return []


def loop_of_kills(place: LedgerPlace, teacher: ForkServer, distill: ForkServer, folder: Path, kills: int) -> Figures:
    server = Server(teacher, folder, **place.env, TEST_SECONDS_PER_CALL=str(SECONDS_PER_CALL))
    with place.open(create=True):
        pass
    server.start()
    loop = ClientLoop(place, distill, server, folder, seed=16)
    try:
        loop.run(kills)
    finally:
        server.stop()
    for text in (loop.log.read_text(), server.text()):
        assert "Traceback" not in text, text[-3000:]
    return loop.figures


def test_a_client_killed_at_random_moments_pays_once_for_each_image(
    place: LedgerPlace, teacher_forks: ForkServer, distill_forks: ForkServer, tmp_path: Path
) -> None:
    figures = loop_of_kills(place, teacher_forks, distill_forks, tmp_path, SHORT_KILLS)
    assert figures.differences == []


@pytest.mark.soak
def test_soak_client_killed(
    place: LedgerPlace, teacher_forks: ForkServer, distill_forks: ForkServer, tmp_path: Path
) -> None:
    figures = loop_of_kills(place, teacher_forks, distill_forks, tmp_path, LONG_KILLS)
    figures.keep(f"client killed, {place.kind}")
    assert figures.differences == []
