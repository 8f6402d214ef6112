"""The schema: what the migrations make, and files and addresses that are not a ledger of this program."""

import sqlite3
from collections.abc import Callable
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import Connection, inspect
from sqlalchemy.engine.interfaces import ReflectedIndex

from teacher_server.errors import OperatorError
from teacher_server.ledger.databases.database import Database
from teacher_server.ledger.keys.issuing import list_keys
from teacher_server.ledger.lifecycle.opening import migrate, open_database
from teacher_server.ledger.tables import metadata
from tests.ledger_places import KINDS, LedgerPlace
from tests.teacher_server.support import file_of, new_key

Opener = Callable[[str], object]
OPENERS: list[Opener] = [partial(open_database, create=False), migrate]


@pytest.fixture
def ledger_kind(request: pytest.FixtureRequest) -> str:
    """SQLite's files here, but where a test asks for more."""
    return getattr(request, "param", "sqlite")


def schema(file: Path) -> dict[str, str]:
    """Every table and index by name, as SQLite keeps its text."""
    with closing(sqlite3.connect(file)) as connection:
        rows = connection.execute("SELECT name, sql FROM sqlite_master WHERE name != 'alembic_version'").fetchall()
    return {name: " ".join((text or "").split()) for name, text in rows if "alembic_version" not in name}


def described(connection: Connection) -> dict[str, object]:
    """All that the database itself says of the ledger's tables, whatever order it was made in."""
    found = inspect(connection)
    found.clear_cache()

    def options(index: ReflectedIndex) -> dict[str, Any]:
        return index.get("dialect_options", {})

    def described_table(name: str) -> object:
        return {
            "columns": {
                column["name"]: (str(column["type"]), column["nullable"], column["default"])
                for column in found.get_columns(name)
            },
            "key": found.get_pk_constraint(name)["constrained_columns"],
            "foreign": sorted(
                (key["constrained_columns"], key["referred_table"]) for key in found.get_foreign_keys(name)
            ),
            "unique": sorted((one["column_names"], one["name"]) for one in found.get_unique_constraints(name)),
            "checks": sorted((one["name"], one["sqltext"]) for one in found.get_check_constraints(name)),
            "indexes": sorted(
                (str(index["name"]), index["column_names"], [str(value) for value in options(index).values()])
                for index in found.get_indexes(name)
            ),
        }

    return {name: described_table(name) for name in found.get_table_names() if name != "alembic_version"}


@pytest.mark.parametrize("ledger_kind", KINDS, indirect=True)
def test_the_migrations_make_what_the_tables_say(database: Database) -> None:
    with database.reading() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, metadata) == []
        migrated = described(connection)
    # compare_metadata looks at neither defaults nor check constraints
    with database.writing() as connection:
        metadata.drop_all(connection)
        metadata.create_all(connection)
    with database.reading() as connection:
        assert described(connection) == migrated


def test_opening_again_changes_nothing(place: LedgerPlace) -> None:
    with place.open(create=True) as database:
        key = new_key(database)
    assert migrate(place.url, signing_key=place.signing_key) == "0003"
    with place.open() as again:
        assert list_keys(again) == [key]


def test_migrating_needs_a_ledger(ledger_url: str) -> None:
    with pytest.raises(OperatorError, match="teacher ledger init"):
        migrate(ledger_url)
    assert not file_of(ledger_url).exists()


@pytest.mark.parametrize("opener", OPENERS)
def test_another_program_s_database_is_left_alone(ledger_url: str, opener: Opener) -> None:
    with closing(sqlite3.connect(file_of(ledger_url))) as connection:
        connection.execute("CREATE TABLE recipes (name TEXT)")
    before = schema(file_of(ledger_url))
    with pytest.raises(OperatorError, match=r"ledger\.db is a database, but not a ledger"):
        opener(ledger_url)
    assert schema(file_of(ledger_url)) == before


@pytest.mark.parametrize("opener", OPENERS)
@pytest.mark.parametrize("ledger_kind", KINDS, indirect=True)
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
     "postgresql://localhost", "sqlite:///x.db?mode=memory&uri=true", "mysql:///x", "sqlite:x.db"],
)  # fmt: skip
def test_addresses_that_are_not_allowed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(OperatorError) as error:
        open_database(url, create=True)
    assert url.rpartition(":")[2].strip("/") in str(error.value)
    assert "sqlite:///FILE" in str(error.value)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(OperatorError, match=r"missing.*does not exist"):
        open_database(f"sqlite:///{tmp_path}/missing/ledger.db", create=True)


def test_a_folder_instead_of_a_file(tmp_path: Path) -> None:
    with pytest.raises(OperatorError, match="which is a folder"):
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
