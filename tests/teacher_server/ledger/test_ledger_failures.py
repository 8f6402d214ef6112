"""A ledger that cannot be used: every failure is `ledger_unavailable`, and nothing of it stays."""

import sqlite3
import stat
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from sqlalchemy import func, select
from sqlalchemy.exc import OperationalError

from shared.wire.error_codes import ERROR_KINDS, ErrorCode
from teacher_server.errors import OperatorError, Refusal
from teacher_server.ledger.databases.database import Database
from teacher_server.ledger.databases.sqlite import open_sqlite
from teacher_server.ledger.keys.issuing import Key, create_key, grant_images, list_keys
from teacher_server.ledger.ledger import Ledger
from teacher_server.ledger.lifecycle.opening import open_database
from teacher_server.ledger.tables import answers, event_images, events
from tests.teacher_server.ledger.soundness import require_sound
from tests.teacher_server.ledger.support import charge, question
from tests.teacher_server.support import PROBABILITIES, file_of, history, new_key


@pytest.fixture
def ledger_kind() -> str:
    """SQLite; PostgreSQL fails in ways of its own, see test_postgresql_failures.py."""
    return "sqlite"


@pytest.fixture
def impatient(ledger_url: str) -> Iterator[Database]:
    with closing(open_database(ledger_url, lock_timeout_s=0.05, create=True)) as database:
        yield database


@contextmanager
def other_writer(ledger_url: str) -> Iterator[sqlite3.Connection]:
    """A program that began to write and does not come to an end."""
    with closing(sqlite3.connect(file_of(ledger_url), isolation_level=None)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        yield connection


def require_unavailable(act: Callable[[], object]) -> None:
    with pytest.raises(Refusal) as refusal:
        act()
    assert refusal.value.code is ErrorCode.LEDGER_UNAVAILABLE
    assert ERROR_KINDS[refusal.value.code].retryable
    assert refusal.value.__cause__ is not None


def rows(database: Database) -> tuple[int, ...]:
    with database.reading() as connection:
        counts = [
            connection.execute(select(func.count()).select_from(t)).scalar_one()
            for t in (events, answers, event_images)
        ]
    return tuple(counts)


def test_another_writer_holds_the_lock_too_long(impatient: Database, ledger_url: str) -> None:
    key, ledger = new_key(impatient), Ledger(impatient)
    charge(ledger, key, "before", 1)
    with other_writer(ledger_url):
        require_unavailable(ledger.check_writable)
        require_unavailable(lambda: charge(ledger, key, "meanwhile", 2))
        require_unavailable(lambda: grant_images(impatient, name="ada", images=1))
        require_unavailable(lambda: new_key(impatient, "bob"))
        # what was answered before can still be read: a replay does not need the writer's lock
        assert ledger.find_answer(question(key, "before")) is not None
        assert rows(impatient) == (2, 1, 1)
    ledger.check_writable()
    assert not charge(ledger, key, "meanwhile", 2).is_replay
    require_sound(impatient)


def test_a_writer_that_ends_in_time_is_waited_for(database: Database, ledger_url: str) -> None:
    key = new_key(database)
    with other_writer(ledger_url) as connection:
        connection.execute("ROLLBACK")
        charge(Ledger(database), key, "a", 1)
    require_sound(database)


def test_a_full_disk(impatient: Database) -> None:
    key, ledger = new_key(impatient, budget=100_000), Ledger(impatient)
    charge(ledger, key, "small", 1)
    with impatient.reading() as connection:  # the one pooled connection keeps the limit
        pages = connection.exec_driver_sql("PRAGMA page_count").scalar_one()
        connection.exec_driver_sql(f"PRAGMA max_page_count = {pages + 2}")
    before = rows(impatient)
    require_unavailable(lambda: charge(ledger, key, "large", 50_000))
    assert rows(impatient) == before
    assert list_keys(impatient)[0].spent == 1
    with impatient.reading() as connection:
        connection.exec_driver_sql("PRAGMA max_page_count = 1000000")
    assert not charge(ledger, key, "large", 50_000).is_replay, "nothing of the failed charge stayed"
    require_sound(impatient)


def test_a_ledger_that_can_only_be_read(impatient: Database) -> None:
    key, ledger = new_key(impatient), Ledger(impatient)
    with impatient.reading() as connection:
        connection.exec_driver_sql("PRAGMA query_only = ON")
    require_unavailable(lambda: charge(ledger, key, "a", 1))
    with impatient.reading() as connection:
        connection.exec_driver_sql("PRAGMA query_only = OFF")
    assert rows(impatient) == (1, 0, 0)
    require_sound(impatient)


@pytest.mark.parametrize(
    "statement", ["INSERT ON events", "INSERT ON event_images", "UPDATE ON keys", "INSERT ON answers"]
)
def test_a_failure_at_any_statement_undoes_all_of_them(impatient: Database, statement: str) -> None:
    key, ledger = new_key(impatient), Ledger(impatient)
    with impatient.writing() as connection:
        connection.exec_driver_sql(
            f"CREATE TRIGGER broken BEFORE {statement} BEGIN SELECT RAISE(ABORT, 'a broken disk'); END"
        )
    require_unavailable(lambda: charge(ledger, key, "a", 1))
    assert rows(impatient) == (1, 0, 0)
    with impatient.writing() as connection:
        connection.exec_driver_sql("DROP TRIGGER broken")
    assert not charge(ledger, key, "a", 1).is_replay
    require_sound(impatient)


@pytest.mark.parametrize("replaced", [False, True], ids=["removed", "replaced"])
def test_a_file_taken_away_is_noticed_and_not_made_anew(impatient: Database, ledger_url: str, replaced: bool) -> None:
    """The connections still have the old file open: what they wrote there would be charged nowhere."""
    key, secret = create_key(impatient, name="ada", budget=9, disclosure=PROBABILITIES, expires_at=None)
    ledger, file = Ledger(impatient), file_of(ledger_url)
    charge(ledger, key, "before", 1)
    aside = file.with_name("aside.db")
    file.rename(aside)
    if replaced:
        with closing(open_database(f"sqlite:///{file.with_name('other.db')}", create=True)) as other:
            new_key(other, "ada", budget=1000)
        file.with_name("other.db").rename(file)
    require_unavailable(ledger.check_writable)
    require_unavailable(lambda: charge(ledger, key, "a", 1))
    require_unavailable(lambda: ledger.find_answer(question(key, "a")))
    require_unavailable(lambda: ledger.authenticate(secret))
    require_unavailable(lambda: ledger.history(key, after=0, limit=10))
    assert file.exists() is replaced
    aside.rename(file)  # its owner noticed and put it back
    ledger.check_writable()
    charge(ledger, key, "a", 1)
    require_sound(impatient)


@pytest.mark.parametrize("name", ["ledger.db", "a ledger? 50% off#1;x=é.db"])
def test_a_connection_is_to_the_file_that_was_opened(tmp_path: Path, name: str) -> None:
    """Also one that is made after a look found the file there, which is then taken away: it makes no other."""
    file = tmp_path / name
    engine = open_sqlite(file, lock_timeout_s=0.05).writing
    with engine.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE kept (number INTEGER)")
    assert file.stat().st_size > 0
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    engine.dispose()
    file.rename(tmp_path / "aside.db")
    with pytest.raises(OperationalError, match="unable to open"):
        engine.connect()
    assert not file.exists()
    file.touch()
    with pytest.raises(FileNotFoundError, match="not the file that was opened"):
        engine.connect()
    (tmp_path / "aside.db").rename(file)
    with engine.connect() as connection:
        assert connection.exec_driver_sql("SELECT count(*) FROM kept").scalar_one() == 0
    engine.dispose()


def test_pages_that_are_garbage(ledger_url: str) -> None:
    with closing(open_database(ledger_url, create=True)) as database:
        key = new_key(database)
        for number in range(20):
            charge(Ledger(database), key, str(number), 4)
    content = bytearray(file_of(ledger_url).read_bytes())
    content[4096:] = b"\xa5" * (len(content) - 4096)  # all but the first page, which holds the schema
    file_of(ledger_url).write_bytes(content)
    try:
        damaged = open_database(ledger_url, create=True)
    except OperatorError:
        return
    with closing(damaged):
        require_unavailable(lambda: charge(Ledger(damaged), key, "new", 1))
        require_unavailable(lambda: history(damaged, key))


def test_an_answer_that_cannot_be_stored_is_not_charged(database: Database) -> None:
    """A defect of ours, here an unstorable value, is not hidden as an unavailable ledger and charges nothing."""
    key, ledger = new_key(database), Ledger(database)
    broken: Key = key
    with pytest.raises(AttributeError):
        ledger.charge(question(broken, "a"), None, request_id="x")  # type: ignore[arg-type]
    assert rows(database) == (1, 0, 0)
    assert not charge(ledger, key, "a", 1).is_replay
    require_sound(database)
