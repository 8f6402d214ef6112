"""The real server, killed with SIGKILL at random moments with 16 requests in flight, on both databases.

After each kill, before the next start: the ledger is sound, and every answer that was received is charged in it. At
the end: every request was answered and charged exactly once, and is answered again with the same bytes.
"""

import random
import time
from pathlib import Path

import pytest

from tests.ledger_places import LedgerPlace
from tests.reliability.demanding_client import Crowd, DemandingClient
from tests.reliability.figures import LONG_KILLS, SHORT_KILLS, Figures
from tests.reliability.processes import ForkServer, Server, wait_until
from tests.teacher_server.ledger.soundness import require_sound

IN_FLIGHT = 16
KILLS_PER_KEY = 20
BUDGET = 10_000_000
REPLAYS_MAX = 100


class KillLoop:
    """One server, one client; a new key every so many kills, so that checking a whole chain stays quick."""

    def __init__(self, place: LedgerPlace, forks: ForkServer, folder: Path, *, seed: int) -> None:
        self.place, self.seed = place, seed
        self.server = Server(forks, folder, **place.env)
        self.figures = Figures()
        self._rng = random.Random(seed)

    def run(self, kills: int) -> None:
        started = time.monotonic()
        for first in range(0, kills, KILLS_PER_KEY):
            self._with_one_key(f"key-{first}", min(KILLS_PER_KEY, kills - first))
        self.figures.seconds = time.monotonic() - started

    def _with_one_key(self, name: str, kills: int) -> None:
        client = DemandingClient(self.server.url, self.place.new_secret(name, budget=BUDGET))
        self._start()
        crowd = Crowd(client, threads=IN_FLIGHT, seed=self.seed, images_max=8, name=name)
        try:
            for _ in range(kills):
                self._wait_for_a_moment(client)
                self.figures.in_flight_at_kill.append(client.in_flight)
                self.figures.kills += self.server.kill()
                self._check(name, client)
                self._start()
        finally:
            crowd.finish()
        self._replay(client)
        self.server.stop()
        self._check(name, client, is_over=True)
        self.figures.requests += client.requests
        self.figures.images += client.images
        self.figures.lost += client.lost
        self.figures.differences += client.faults + [f"refused: {problem}" for problem in client.refused.values()]

    def _start(self) -> None:
        self.server.start()
        self.figures.starts += 1

    def _wait_for_a_moment(self, client: DemandingClient) -> None:
        """Once it answers again, at any moment after; sometimes before, at any moment of its start."""
        if self._rng.random() < 0.1:
            time.sleep(self._rng.uniform(0, 0.3))
            return
        answered = len(client.received)
        wait_until(lambda: len(client.received) > answered)
        time.sleep(self._rng.uniform(0, 0.15))

    def _check(self, name: str, client: DemandingClient, *, is_over: bool = False) -> None:
        """With the server gone. What a request that is still waited for was charged is not known to the client."""
        received = {key: len(answer.wish.numbers) for key, answer in list(client.received.items())}
        try:
            with self.place.open() as database:
                counted = require_sound(database, name)[name]
            missing = {key: images for key, images in received.items() if counted.images.get(key) != images}
            assert not missing, f"answered, but not charged so: {missing}"
            if is_over:
                assert counted.images == received, "charged, but never answered"
            self.figures.checks += 1
            self.figures.events_checked += len(counted.events)
        except AssertionError as difference:
            self.figures.differences.append(f"{name}: {difference}")

    def _replay(self, client: DemandingClient) -> None:
        """Ask again for some of what was answered: the same bytes, or the client finds fault."""
        with client.connect() as connection:
            answered = list(client.received.values())
            for received in self._rng.sample(answered, min(REPLAYS_MAX, len(answered))):
                client.insist(connection, received.wish)


def loop_of_kills(place: LedgerPlace, forks: ForkServer, folder: Path, kills: int) -> Figures:
    loop = KillLoop(place, forks, folder, seed=20)
    try:
        loop.run(kills)
    finally:
        loop.server.stop()
    assert "Traceback" not in loop.server.text(), loop.server.text()[-3000:]
    assert loop.figures.kills >= kills * 0.9
    return loop.figures


def test_a_server_killed_at_random_moments_charges_everything_once(
    place: LedgerPlace, teacher_forks: ForkServer, tmp_path: Path
) -> None:
    figures = loop_of_kills(place, teacher_forks, tmp_path, SHORT_KILLS)
    assert figures.differences == []
    assert figures.images > 0


@pytest.mark.soak
def test_soak_server_killed(place: LedgerPlace, teacher_forks: ForkServer, tmp_path: Path) -> None:
    figures = loop_of_kills(place, teacher_forks, tmp_path, LONG_KILLS)
    figures.keep(f"server killed, {place.kind}")
    assert figures.differences == []
