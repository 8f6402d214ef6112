"""Every test of the ledger runs on both databases, and on SQLite both ways of committing; a module may choose."""

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from teacher_server.ledger.databases.database import Database
from tests.ledger_places import postgresql_place, sqlite_place
from tests.teacher_server.conftest import put_ledger
from tests.teacher_server.ledger.support import open_ledger


@pytest.fixture(params=["sqlite", "sqlite, shared commits", "postgresql"])
def ledger_kind(request: pytest.FixtureRequest) -> str:
    kind: str = request.param
    return kind


@pytest.fixture
def ledger_url(
    ledger_kind: str, tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Iterator[str]:
    if ledger_kind != "postgresql":
        yield sqlite_place(tmp_path).url
        return
    server = request.getfixturevalue("postgresql")
    place = postgresql_place(tmp_path, server)
    monkeypatch.setenv("TEACHER_SIGNING_KEY", str(place.signing_key))  # open_ledger reads it, in any process
    yield place.url
    server.give_back(place.url)


@pytest.fixture
def database(ledger_kind: str, ledger_url: str) -> Iterator[Database]:
    if ledger_kind != "postgresql":
        put_ledger(ledger_url)
    with closing(open_ledger(ledger_url)) as opened:
        if "shared" in ledger_kind:
            opened.share_commits()
        yield opened
