"""The schema: what the migrations make, and files and addresses that are not a ledger of this program."""

import sqlite3
from collections.abc import Callable
from contextlib import closing
from functools import partial
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import create_engine

from teacher_server.errors import OperatorError
from teacher_server.ledger.database import Database
from teacher_server.ledger.keys import list_keys
from teacher_server.ledger.opening import migrate, open_database
from teacher_server.ledger.tables import metadata
from tests.teacher_server.support import file_of, new_key

Opener = Callable[[str], object]
OPENERS: list[Opener] = [partial(open_database, create=False), migrate]


def schema(file: Path) -> dict[str, str]:
    """Every table and index by name, as SQLite keeps its text."""
    with closing(sqlite3.connect(file)) as connection:
        rows = connection.execute("SELECT name, sql FROM sqlite_master WHERE name != 'alembic_version'").fetchall()
    return {name: " ".join((text or "").split()) for name, text in rows if "alembic_version" not in name}


def test_the_migrations_make_what_the_tables_say(database: Database, ledger_url: str, tmp_path: Path) -> None:
    with database.reading() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True, "compare_server_default": True})
        assert compare_metadata(context, metadata) == []
    # compare_metadata does not look at check constraints; SQLite's own text shows everything
    direct = tmp_path / "direct.db"
    engine = create_engine(f"sqlite:///{direct}")
    metadata.create_all(engine)
    engine.dispose()
    assert schema(file_of(ledger_url)) == schema(direct)


def test_opening_again_changes_nothing(database: Database, ledger_url: str) -> None:
    key = new_key(database)
    assert migrate(ledger_url) == "0001"
    with closing(open_database(ledger_url, create=True)) as again:
        assert list_keys(again) == [key]


def test_migrating_makes_a_ledger_too(ledger_url: str) -> None:
    assert migrate(ledger_url) == "0001"
    with closing(open_database(ledger_url, create=True)) as database:
        assert list_keys(database) == []


@pytest.mark.parametrize("opener", OPENERS)
def test_another_program_s_database_is_left_alone(ledger_url: str, opener: Opener) -> None:
    with closing(sqlite3.connect(file_of(ledger_url))) as connection:
        connection.execute("CREATE TABLE recipes (name TEXT)")
    before = schema(file_of(ledger_url))
    with pytest.raises(OperatorError, match=r"ledger\.db is a database, but not a ledger"):
        opener(ledger_url)
    assert schema(file_of(ledger_url)) == before


@pytest.mark.parametrize("opener", OPENERS)
def test_a_ledger_from_the_future_is_refused(database: Database, ledger_url: str, opener: Opener) -> None:
    with database.writing() as connection:
        connection.exec_driver_sql("UPDATE alembic_version SET version_num = '9999'")
    with pytest.raises(OperatorError, match="schema 9999"):
        opener(ledger_url)


def test_a_ledger_whose_schema_is_gone_says_what_to_do(database: Database, ledger_url: str) -> None:
    with database.writing() as connection:
        connection.exec_driver_sql("DELETE FROM alembic_version")
    with pytest.raises(OperatorError, match="not a ledger of this program"):
        open_database(ledger_url, create=True)


@pytest.mark.parametrize(
    "url",
    ["", "ledger.db", "sqlite://", "sqlite:///", "sqlite:///:memory:", "sqlite+aiosqlite:///x.db",
     "postgresql://localhost/ledger", "sqlite:///x.db?mode=memory&uri=true", "mysql:///x", "sqlite:x.db"],
)  # fmt: skip
def test_addresses_that_are_not_allowed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(OperatorError) as error:
        open_database(url, create=True)
    assert repr(url) in str(error.value)
    assert "sqlite:///FILE" in str(error.value)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(OperatorError, match=r"missing.*does not exist"):
        open_database(f"sqlite:///{tmp_path}/missing/ledger.db", create=True)


def test_a_folder_instead_of_a_file(tmp_path: Path) -> None:
    with pytest.raises(OperatorError, match="cannot be opened"):
        open_database(f"sqlite:///{tmp_path}", create=True)


@pytest.mark.parametrize("content", [b"not a database" * 1000, b"SQLite format 3\x00" + b"\xff" * 5000])
@pytest.mark.parametrize("opener", OPENERS)
def test_a_file_that_is_not_a_database(ledger_url: str, content: bytes, opener: Opener) -> None:
    file_of(ledger_url).write_bytes(content)
    with pytest.raises(OperatorError, match="cannot be opened"):
        opener(ledger_url)
    assert file_of(ledger_url).read_bytes() == content


def test_a_relative_address_stays_with_its_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with closing(open_database("sqlite:///here.db", create=True)) as database:
        elsewhere = tmp_path / "elsewhere"
        elsewhere.mkdir()
        monkeypatch.chdir(elsewhere)
        new_key(database)
        assert list(elsewhere.iterdir()) == []
