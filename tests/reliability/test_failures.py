"""What a server lives through: a full disk, a read-only one, a database that goes away under it or dies.

While it lasts nobody is given an answer that is not charged, and the error says what to do; afterwards the same
server goes on by itself, and what was asked for meanwhile is answered and charged once.
"""

import resource
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import httpx2
import pytest

from tests.ledger_places import LedgerPlace, postgresql_place, sqlite_place
from tests.postgresql import PostgreSQL, name_of
from tests.reliability.demanding_client import Crowd, DemandingClient, Wish
from tests.reliability.processes import ForkServer, Server, wait_until
from tests.reliability.small_disk import may_mount, small_disk
from tests.reliability.tcp_cutter import CommitCutter
from tests.teacher_server.ledger.soundness import require_sound

IN_FLIGHT = 16
needs_mount = pytest.mark.skipif(not may_mount(), reason="mounting a small disk needs root")


@dataclass(frozen=True)
class Trouble:
    """A server, a client that wants its answers, and its crowd, who go on through whatever happens."""

    place: LedgerPlace
    server: Server
    client: DemandingClient

    def answers_more(self, count: int = 20) -> None:
        """Wait until so many more were answered."""
        before = len(self.client.received)
        wait_until(lambda: len(self.client.received) >= before + count, timeout_s=30)

    def is_told(self, what: str) -> None:
        """Wait until the client was told so."""
        wait_until(lambda: any(what in reason for reason in self.client.lost), timeout_s=30)

    def is_not_answered(self, seconds: float = 0.3) -> None:
        time.sleep(0.2)  # what had passed before may still arrive
        before = len(self.client.received)
        time.sleep(seconds)
        assert len(self.client.received) == before

    def require_ready(self, status: int) -> None:
        assert httpx2.get(f"{self.server.url}/readyz", timeout=20).status_code == status


@contextmanager
def trouble(
    place: LedgerPlace, forks: ForkServer, folder: Path, *, images_max: int = 8, **env: str
) -> Iterator[Trouble]:
    """While it lasts the crowd buys; at the end every wish has one answer and one charge."""
    server = Server(forks, folder, **place.env, TEACHER_LEDGER_TIMEOUT_S="2", **env)
    secret = place.new_secret("ada", budget=10_000_000)
    server.start()
    client = DemandingClient(server.url, secret)
    crowd = Crowd(client, threads=IN_FLIGHT, seed=6, images_max=images_max, name="wish")
    found = Trouble(place, server, client)
    try:
        found.answers_more()
        yield found
        found.answers_more()
    finally:
        crowd.finish()
        server.stop()
    assert client.faults == []
    assert client.refused == {}
    assert "Traceback" not in server.text(), server.text()[-3000:]
    with place.open() as database:
        counted = require_sound(database, "ada")["ada"]
    assert counted.images == {key: len(received.wish.numbers) for key, received in client.received.items()}


@needs_mount
def test_a_full_disk(teacher_forks: ForkServer, tmp_path: Path) -> None:
    with (
        small_disk(tmp_path / "disk", megabytes=24) as disk,
        trouble(sqlite_place(disk.folder), teacher_forks, tmp_path) as found,
    ):
        disk.fill()
        found.is_told("ledger_unavailable")
        disk.empty()
        found.answers_more()
        found.require_ready(200)


def test_a_file_that_may_not_grow(teacher_forks: ForkServer, tmp_path: Path) -> None:
    """As on a full disk, also where nothing may be mounted."""
    place = sqlite_place(tmp_path)
    with trouble(place, teacher_forks, tmp_path, images_max=200, TEST_FILE_BYTES_MAX=str(2 << 20)) as found:
        found.is_told("ledger_unavailable")
        assert found.server.program is not None
        unlimited = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
        resource.prlimit(found.server.program.pid, resource.RLIMIT_FSIZE, unlimited)


@needs_mount
def test_a_full_disk_under_postgresql(teacher_forks: ForkServer, tmp_path: Path) -> None:
    with tempfile.TemporaryDirectory() as short, small_disk(Path(short) / "disk", megabytes=160) as disk:
        postgresql = PostgreSQL(disk.folder)
        try:
            with trouble(postgresql_place(tmp_path, postgresql), teacher_forks, tmp_path, images_max=200) as found:
                disk.fill()
                found.is_told("ledger_unavailable")
                disk.empty()
                if not postgresql.is_running:  # it ends rather than go on without its write-ahead log
                    postgresql.start()
        finally:
            postgresql.stop()


@needs_mount
def test_a_read_only_disk(teacher_forks: ForkServer, tmp_path: Path) -> None:
    """A server does not start on it, says why in one line, and starts once it can be written."""
    with small_disk(tmp_path / "disk", megabytes=24) as disk:
        place = sqlite_place(disk.folder)
        with trouble(place, teacher_forks, tmp_path):
            pass
        disk.allow_writing(False)
        log = tmp_path / "read-only.log"
        env = {**place.env, "TEACHER_BUNDLES": "unused"}
        assert teacher_forks.start("teacher", "serve", "--port", 0, log=log, env=env).wait() == 2
        assert log.read_text().startswith("teacher: ledger ")
        assert log.read_text().count("\n") == 1
        disk.allow_writing(True)
        server = Server(teacher_forks, tmp_path, **place.env)
        server.start()
        server.stop()


def test_a_ledger_file_moved_away_and_put_back(teacher_forks: ForkServer, tmp_path: Path) -> None:
    place = sqlite_place(tmp_path)
    file = Path(place.url.removeprefix("sqlite:///"))
    with trouble(place, teacher_forks, tmp_path) as found:
        for _ in range(3):
            file.rename(file.with_name("aside.db"))
            found.is_told("ledger_unavailable")
            found.is_not_answered()
            assert not file.exists(), "no new ledger in its place"
            file.with_name("aside.db").rename(file)
            found.answers_more()


def test_a_postgresql_killed_under_its_servers(
    postgresql: PostgreSQL, teacher_forks: ForkServer, tmp_path: Path
) -> None:
    with trouble(postgresql_place(tmp_path, postgresql), teacher_forks, tmp_path) as found:
        for _ in range(3):
            postgresql.execute("CHECKPOINT")  # what other tests wrote is not for this recovery to do
            postgresql.kill()
            found.is_told("ledger_unavailable")
            found.is_not_answered()
            found.require_ready(503)
            postgresql.start()
            found.answers_more()


def test_connections_cut_during_commit(postgresql: PostgreSQL, teacher_forks: ForkServer, tmp_path: Path) -> None:
    """Whether the charge is kept is not known then: the server says so, and a replay finds out."""
    direct = postgresql_place(tmp_path, postgresql)
    with CommitCutter(postgresql.socket, every=15) as cutter:
        url = f"postgresql://postgres@127.0.0.1:{cutter.port}/{name_of(direct.url)}"
        with trouble(replace(direct, url=url), teacher_forks, tmp_path) as found:
            cutter.arm()
            wait_until(lambda: cutter.cut_before >= 5 and cutter.cut_after >= 5)
            found.is_told("ledger_unavailable, charged: unknown")


def test_asking_again_for_what_is_unknown_gives_the_first_answer(
    postgresql: PostgreSQL, teacher_forks: ForkServer, tmp_path: Path
) -> None:
    """The commit reached the database and its answer was lost: replayed, not charged again."""
    direct = postgresql_place(tmp_path, postgresql)
    secret = direct.new_secret("ada", budget=10)
    with CommitCutter(postgresql.socket, every=1) as cutter:
        url = f"postgresql://postgres@127.0.0.1:{cutter.port}/{name_of(direct.url)}"
        server = Server(teacher_forks, tmp_path, **replace(direct, url=url).env)
        server.start()
        try:
            assert httpx2.get(f"{server.url}/readyz", timeout=20).status_code == 200  # its start's own commit is over
            cutter.arm()
            client = DemandingClient(server.url, secret)
            with client.connect() as connection:
                for number in range(4):  # the first is cut before the commit, the second after it
                    client.insist(connection, Wish(f"wish-{number}", (number,)))
        finally:
            server.stop()
    assert (client.faults, client.refused) == ([], {})
    assert client.lost == {"ledger_unavailable, charged: unknown": 8}  # two for each wish
    assert (cutter.cut_before, cutter.cut_after) == (4, 4)
    with direct.open() as database:
        assert require_sound(database)["ada"].images == {f"wish-{number}": 1 for number in range(4)}
