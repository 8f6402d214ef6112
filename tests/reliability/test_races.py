"""Many at once: 64 connections from 4 client processes, one server or four, and one idempotency key 100 times."""

import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from shared.wire.error_codes import ErrorCode
from tests.ledger_places import LedgerPlace, postgresql_place, sqlite_place
from tests.postgresql import PostgreSQL
from tests.reliability.crowd_program import BATCHES
from tests.reliability.demanding_client import DemandingClient, Wish
from tests.reliability.processes import ForkServer, Server
from tests.teacher_server.ledger.soundness import Counted, require_sound

PROCESSES, THREADS = 4, 16
BUDGET = 8 * 188 + 7
AT_ONCE = 100


@dataclass(frozen=True)
class Servers:
    """Servers on one ledger: one, or several where the database takes them."""

    place: LedgerPlace
    servers: list[Server]

    def counted(self, name: str) -> Counted:
        with self.place.open() as database:
            return require_sound(database, name)[name]


@pytest.fixture(params=["sqlite, 1 server", "postgresql, 1 server", "postgresql, 4 servers"])
def servers(request: pytest.FixtureRequest, teacher_forks: ForkServer, tmp_path: Path) -> Iterator[Servers]:
    kind, _, count = request.param.partition(", ")
    place = places(kind, request, tmp_path)
    with place.open(create=True):
        pass
    with ExitStack() as stack:
        started = []
        for number in range(int(count.split()[0])):
            folder = tmp_path / f"server-{number}"
            folder.mkdir()
            more = dict.fromkeys(("TEACHER_REQUESTS_IN_FLIGHT_MAX", "TEACHER_REQUESTS_IN_FLIGHT_PER_KEY_MAX"), "256")
            server = Server(teacher_forks, folder, **place.env, **more)
            server.start()
            stack.callback(server.stop)
            started.append(server)
        yield Servers(place, started)
    for server in started:
        assert "Traceback" not in server.text(), server.text()[-3000:]


def places(kind: str, request: pytest.FixtureRequest, folder: Path) -> LedgerPlace:
    if kind == "sqlite":
        return sqlite_place(folder)
    postgresql: PostgreSQL = request.getfixturevalue("postgresql")
    return postgresql_place(folder, postgresql)


def test_exactly_the_budget_is_answered_to_the_image(
    servers: Servers, crowd_forks: ForkServer, tmp_path: Path
) -> None:
    """The budget runs out among batches of up to 24 images; single images then take what is left of it."""
    secret = servers.place.new_secret("racer", budget=BUDGET)
    start_file = tmp_path / "start"
    crowds = [
        crowd_forks.start(
            "-",
            servers.servers[number % len(servers.servers)].url,
            f"p{number}",
            THREADS,
            start_file,
            log=tmp_path / f"crowd-{number}.log",
            env={"TEST_KEY": secret},
        )
        for number in range(PROCESSES)
    ]
    start_file.touch()
    for number, crowd in enumerate(crowds):
        assert crowd.wait() == 0, (tmp_path / f"crowd-{number}.log").read_text()
    reports = [json.loads((tmp_path / f"crowd-{number}.out").read_text()) for number in range(PROCESSES)]
    assert [fault for report in reports for fault in report["faults"]] == []
    assert {code for report in reports for code in report["refused"]} == {ErrorCode.BUDGET_EXHAUSTED}
    assert sum(report["images"] for report in reports) == BUDGET
    counted = servers.counted("racer")
    assert counted.spent == BUDGET
    assert counted.images == {key: images for report in reports for key, images in report["answers"].items()}
    assert sorted(set(counted.images.values())) == [1, *BATCHES]


def test_one_idempotency_key_sent_100_times_at_once_is_charged_once(servers: Servers) -> None:
    secret = servers.place.new_secret("twin", budget=1000)
    wish = Wish("the-one", (1, 2, 3))
    barrier = threading.Barrier(AT_ONCE)
    clients = [DemandingClient(server.url, secret) for server in servers.servers]

    def send(number: int) -> tuple[int, bytes]:
        client = clients[number % len(clients)]
        with client.connect() as connection:
            barrier.wait(timeout=60)
            response = client.ask(connection, wish)
            first = (response.status_code, response.content)
            client.insist(connection, wish)
        return first

    with ThreadPoolExecutor(AT_ONCE) as pool:
        outcomes = list(pool.map(send, range(AT_ONCE)))
    bodies = {client.received[wish.idempotency_key].body for client in clients}
    assert len(bodies) == 1, "asked again, everybody gets the same bytes"
    assert {body for status, body in outcomes if status == 200} == bodies
    others = [json.loads(body)["code"] for status, body in outcomes if status != 200]
    assert set(others) <= {ErrorCode.STILL_RUNNING}, others
    assert [fault for client in clients for fault in client.faults] == []
    assert servers.counted("twin").images == {"the-one": 3}
