"""The ledger's database: how it is opened, migrated, read and written durably."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, Engine, create_engine, event, inspect
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, SQLAlchemyError

from shared.wire.error_codes import ErrorCode
from teacher_server.errors import OperatorError, Refusal

LOCK_TIMEOUT_S = 30
_MIGRATIONS = Path(__file__).parent / "migrations"


class Database:
    """Transactions on one ledger. Reads see a snapshot; writes are begun as writer and fsynced at commit."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._writer = engine.execution_options(begin="IMMEDIATE")

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """A read transaction. Raises Refusal(ledger_unavailable) when the ledger cannot be read."""
        with _unavailable_on_failure(), self._engine.begin() as connection:
            yield connection

    @contextmanager
    def writing(self) -> Iterator[Connection]:
        """A durable write transaction: committed and fsynced on leaving, rolled back on any exception.

        It holds the writer's lock from its first statement, so what it reads cannot change before it commits,
        whoever else (the command line, another process) writes the same ledger.
        Raises Refusal(ledger_unavailable) when the ledger cannot be written.
        """
        with _unavailable_on_failure(), self._writer.begin() as connection:
            yield connection

    def check_writable(self) -> None:
        """Take and release the writer's lock. Raises Refusal(ledger_unavailable)."""
        with _unavailable_on_failure(), self._writer.connect() as connection:
            connection.begin().rollback()

    def close(self) -> None:
        """Close every pooled connection."""
        self._engine.dispose()


def open_database(url: str) -> Database:
    """Open a ledger, creating it when it is not there yet.

    Raises OperatorError for an URL that is not ``sqlite:///FILE``, a file that is not a ledger, and a ledger
    whose schema is older, newer or unknown.
    """
    engine = _create_engine(url)
    database = Database(engine)
    try:
        _migrate_if_empty(database)
        _require_current(engine, url)
    except (SQLAlchemyError, Refusal) as error:
        cause = error.__cause__ or error
        raise OperatorError(f"ledger {url} cannot be opened: {getattr(cause, 'orig', cause)}") from error
    return database


def migrate(url: str) -> str:
    """Bring a ledger's schema to this program's version and return that version."""
    engine = _create_engine(url)
    with Database(engine).writing() as connection:
        _require_known(connection, url)
        command.upgrade(_alembic_config(connection), "head")
    return _head_revision()


def _create_engine(url: str) -> Engine:
    try:
        parsed = make_url(url)
    except ArgumentError as error:
        raise OperatorError(f"ledger is {url!r}; allowed is sqlite:///FILE") from error
    if parsed.drivername not in ("sqlite", "sqlite+pysqlite") or not parsed.database or parsed.database == ":memory:":
        raise OperatorError(f"ledger is {url!r}; allowed is sqlite:///FILE (three slashes, then a path to a file)")
    folder = Path(parsed.database).expanduser().absolute().parent
    if not folder.is_dir():
        raise OperatorError(f"ledger is {url!r}, but the folder {folder} does not exist")
    engine = create_engine(parsed, connect_args={"timeout": LOCK_TIMEOUT_S, "check_same_thread": False})
    event.listen(engine, "connect", _configure_sqlite)
    event.listen(engine, "begin", _begin_sqlite)
    return engine


def _configure_sqlite(connection: Any, _record: object) -> None:
    connection.isolation_level = None  # the driver starts no transactions of its own; _begin_sqlite does
    cursor = connection.cursor()
    cursor.execute("PRAGMA journal_mode = WAL")
    cursor.execute("PRAGMA synchronous = FULL")  # a commit returns after its fsync: an answer survives a power cut
    cursor.execute("PRAGMA foreign_keys = ON")
    cursor.close()


def _begin_sqlite(connection: Connection) -> None:
    kind = connection.get_execution_options().get("begin", "DEFERRED")
    connection.exec_driver_sql(f"BEGIN {kind}")


@contextmanager
def _unavailable_on_failure() -> Iterator[None]:
    try:
        yield
    except SQLAlchemyError as error:
        detail = "the ledger cannot be used now; ask again with the same Idempotency-Key: it is charged at most once"
        raise Refusal(ErrorCode.LEDGER_UNAVAILABLE, detail) from error


def _alembic_config(connection: Connection | None = None) -> Config:
    config = Config()
    config.set_main_option("script_location", str(_MIGRATIONS))
    config.attributes["connection"] = connection
    return config


def _head_revision() -> str:
    head = ScriptDirectory.from_config(_alembic_config()).get_current_head()
    assert head is not None
    return head


def _revision(connection: Connection) -> str | None:
    return MigrationContext.configure(connection).get_current_revision()


def _migrate_if_empty(database: Database) -> None:
    """Create the tables in an empty file; inside one writer's transaction, so that two openers do it once."""
    with database.reading() as connection:
        if inspect(connection).get_table_names():
            return
    with database.writing() as connection:
        if not inspect(connection).get_table_names():
            command.upgrade(_alembic_config(connection), "head")


def _require_known(connection: Connection, url: str) -> None:
    revision = _revision(connection)
    known = {script.revision for script in ScriptDirectory.from_config(_alembic_config()).walk_revisions()}
    if revision is None and inspect(connection).get_table_names():
        raise OperatorError(f"ledger {url} is a database, but not a ledger of this program")
    if revision is not None and revision not in known:
        raise OperatorError(f"ledger {url} has schema {revision}, unknown to this version; use a newer program")


def _require_current(engine: Engine, url: str) -> None:
    with engine.connect() as connection:
        _require_known(connection, url)
        revision = _revision(connection)
    if revision != _head_revision():
        raise OperatorError(
            f"ledger {url} has schema {revision}, this program writes {_head_revision()}: "
            f"run `teacher ledger migrate --ledger {url}`"
        )
