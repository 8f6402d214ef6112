"""`teacher serve` as a process of its own, which strangers may do anything to."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import httpx2
import pytest

from shared.wire.images import NPY_MEDIA_TYPE, encode_npy
from tests.ledger_places import LedgerPlace, sqlite_place
from tests.reliability.demanding_client import NO_TLS
from tests.reliability.processes import ForkServer, Server, wait_until
from tests.teacher_server.security.sockets import LABELS
from tests.teacher_server.support import numbered_images


@dataclass(frozen=True)
class Served:
    """A server, its ledger, and one key that has paid for nothing yet."""

    server: Server
    place: LedgerPlace
    secret: str

    @property
    def port(self) -> int:
        return self.server.port

    @property
    def pid(self) -> int:
        assert self.server.program is not None
        return self.server.program.pid

    def client(self) -> httpx2.Client:
        """A paying client; close it."""
        return httpx2.Client(
            base_url=self.server.url,
            headers={"Authorization": f"Bearer {self.secret}"},
            timeout=30,
            trust_env=False,
            verify=NO_TLS,
        )

    def buy(self, client: httpx2.Client, *numbers: int) -> httpx2.Response:
        """One request of one array."""
        return client.post(
            LABELS, content=encode_npy(numbered_images(numbers)), headers={"Content-Type": NPY_MEDIA_TYPE}
        )

    def spent(self) -> int:
        with self.client() as client:
            return int(client.get("/v1/usage").raise_for_status().json()["spent"])


Serve = Callable[..., Served]


@pytest.fixture(scope="session")
def teacher_forks() -> ForkServer:
    """Starts `teacher` commands within milliseconds."""
    return ForkServer("tests.reliability.teacher_program:main")


@pytest.fixture
def serve(teacher_forks: ForkServer, tmp_path: Path) -> Iterator[Serve]:
    """Start a server with these settings on a new SQLite ledger; it is alive and has logged no defect at the end."""
    with ExitStack() as stack:

        def start(**settings: str) -> Served:
            place = sqlite_place(tmp_path)
            secret = place.new_secret("ada", budget=1000)
            server = Server(teacher_forks, tmp_path, **place.env, **settings)
            server.start()
            stack.callback(_end, server)
            wait_until(lambda: "serving" in server.log.with_suffix(".out").read_text())
            return Served(server, place, secret)

        yield start


def _end(server: Server) -> None:
    assert server.program is not None
    assert server.program.poll() is None, "the server ended by itself"
    server.stop()
    assert "Traceback" not in server.text()
    assert "ERROR" not in server.text()
