"""A real ledger file and a real application on it, with a teacher that can be seen through."""

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from teacher_server.app import create_app
from teacher_server.ledger.databases.database import Database
from teacher_server.ledger.lifecycle.opening import open_database
from teacher_server.settings import TeacherSettings
from tests.ledger_places import NEW_LEDGER, LedgerPlace
from tests.teacher_server.support import NumbersClassifier, World, file_of, numbers_teacher

MakeWorld = Callable[..., World]


@pytest.fixture
def ledger_url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'ledger.db'}"


def put_ledger(ledger_url: str) -> None:
    """A new ledger at this URL of an SQLite file, unless one is there; a copy, which takes no time to make."""
    file = file_of(ledger_url)
    place = LedgerPlace("sqlite", ledger_url, Path(f"{file}.signing-key.pem"))
    if place.is_empty and not file.exists():
        NEW_LEDGER.put_into(place)


@pytest.fixture
def database(ledger_url: str) -> Iterator[Database]:
    put_ledger(ledger_url)
    opened = open_database(ledger_url, create=True)
    yield opened
    opened.close()


@pytest.fixture
def make_world(ledger_url: str) -> Iterator[MakeWorld]:
    """Start a server with these settings; every call starts another one on the same ledger."""
    with ExitStack() as stack:

        def make(**settings: object) -> World:
            loaded = TeacherSettings.load(bundles=(Path("unused"),), ledger=ledger_url, **settings)
            classifier = NumbersClassifier()
            teachers = [numbers_teacher(classifier), numbers_teacher(classifier, name="numbers-too", version="2")]
            put_ledger(ledger_url)
            app = create_app(loaded, teachers)
            opened = open_database(ledger_url, create=True)
            stack.callback(opened.close)
            client = stack.enter_context(TestClient(app, raise_server_exceptions=False))
            return World(app, client, classifier, loaded, opened)

        yield make


@pytest.fixture
def world(make_world: MakeWorld) -> World:
    return make_world()


@pytest.fixture(autouse=True)
def no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever runs the tests may have TEACHER_* set for a server of their own."""
    for name in [name for name in os.environ if name.startswith("TEACHER_")]:
        monkeypatch.delenv(name)
