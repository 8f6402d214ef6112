"""What all tests share: one torch thread, one PostgreSQL per process that needs it, places for ledgers."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tests.ledger_places import KINDS, LedgerPlace, postgresql_place, sqlite_place
from tests.postgresql import PostgreSQL
from tests.reliability.processes import close_forks

# Tests, servers and clients share two cores, and waiting threads spin.
torch.set_num_threads(1)


# Their tests are few and slow: begun last, they would each keep one worker busy while the others are done.
_FIRST = tuple(str(Path(__file__).parent / folder) for folder in ("e2e", "reliability", "docker"))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with what starts programs, each folder and file in its own order."""
    items.sort(key=lambda item: not str(item.path).startswith(_FIRST))


@pytest.fixture(scope="session", autouse=True)
def _forks_end() -> Iterator[None]:
    yield
    close_forks()


@pytest.fixture(scope="session")
def postgresql() -> Iterator[PostgreSQL]:
    """A real server, started when first asked for."""
    server = PostgreSQL()
    yield server
    server.stop()


@pytest.fixture(params=KINDS)
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[LedgerPlace]:
    """A new ledger, on each of the two databases in turn."""
    if request.param == "sqlite":
        yield sqlite_place(tmp_path)
        return
    server = request.getfixturevalue("postgresql")
    place = postgresql_place(tmp_path, server)
    yield place
    server.give_back(place.url)
