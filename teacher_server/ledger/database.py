"""The ledger's database: how it is opened, migrated, read and written durably."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from filelock import FileLock, Timeout
from sqlalchemy import Connection, Engine, create_engine, event, inspect
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, SQLAlchemyError

from shared.wire.error_codes import ErrorCode
from teacher_server.errors import OperatorError, Refusal

LOCK_TIMEOUT_S = 30
_MIGRATIONS = Path(__file__).parent / "migrations"
_UNAVAILABLE = "the ledger cannot be used now; ask again with the same Idempotency-Key: it is charged at most once"


class Database:
    """Transactions on one ledger. Reads see a snapshot; writes are begun as writer and fsynced at commit."""

    def __init__(self, engine: Engine, file: Path) -> None:
        self._engine = engine
        self._writer = engine.execution_options(begin="IMMEDIATE")
        self._file = file
        self._file_id = _file_id(file)

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """A read transaction. Raises Refusal(ledger_unavailable) when the ledger cannot be read."""
        with self._available(), self._engine.begin() as connection:
            yield connection

    @contextmanager
    def writing(self) -> Iterator[Connection]:
        """A durable write transaction: committed and fsynced on leaving, rolled back on any exception.

        It holds the writer's lock from its first statement, so what it reads cannot change before it commits,
        whoever else (the command line, another process) writes the same ledger.
        Raises Refusal(ledger_unavailable) when the ledger cannot be written.
        """
        with self._available(), self._writer.begin() as connection:
            yield connection

    def check_writable(self) -> None:
        """Take and release the writer's lock. Raises Refusal(ledger_unavailable)."""
        with self._available(), self._writer.connect() as connection:
            connection.begin().rollback()

    def close(self) -> None:
        """Close every pooled connection."""
        self._engine.dispose()

    @contextmanager
    def _available(self) -> Iterator[None]:
        try:
            # A file that was taken away can still be written through the connections that have it open, and SQLite
            # makes a new one for the next connection; what is charged there is charged nowhere.
            if _file_id(self._file) != self._file_id:
                raise FileNotFoundError(f"{self._file} is not the file that was opened")
            yield
        except (SQLAlchemyError, OSError) as error:
            raise Refusal(ErrorCode.LEDGER_UNAVAILABLE, _UNAVAILABLE) from error


def open_database(url: str, *, create: bool, lock_timeout_s: float = LOCK_TIMEOUT_S) -> Database:
    """Open a ledger, or make it where there is none and ``create`` is set.

    Waits for other writers for at most ``lock_timeout_s``. Raises OperatorError for an URL that is not
    ``sqlite:///FILE``, a file that is not there or no ledger, and a ledger whose schema is older, newer or unknown.
    """
    if not create and not _ledger_file(url).exists():
        raise OperatorError(f"ledger is {url!r}, but there is no such file; `teacher keys create` makes a new ledger")
    database = _connect(url, lock_timeout_s)
    with _opening(url):
        _migrate_if_empty(database)
        with database.reading() as connection:
            _require_current(connection, url)
    return database


@contextmanager
def hold_for_server(url: str) -> Iterator[None]:
    """Keep other servers off this ledger; the command line may still write.

    The lock is on a file beside the ledger, and the operating system releases it however this process ends.
    Raises OperatorError when another server holds it.
    """
    # Not at once: is_held_by_server has the lock for a moment.
    lock = FileLock(beside_ledger(url, ".server-lock"), timeout=0.2)
    try:
        lock.acquire()
    except Timeout as error:
        raise OperatorError(
            f"ledger {url} is in use by another server process; one server per SQLite ledger"
        ) from error
    except OSError as error:
        raise OperatorError(f"ledger {url} cannot be locked: {error}") from error
    try:
        yield
    finally:
        lock.release()


def is_held_by_server(url: str) -> bool:
    """Whether a server runs on this ledger now. Raises OperatorError for an URL that is no ledger's."""
    file = beside_ledger(url, ".server-lock")
    if not file.exists():  # no server ever ran here: a mistyped ledger is to leave no file behind
        return False
    lock = FileLock(file, timeout=0)
    try:
        lock.acquire()
    except Timeout:
        return True
    except OSError as error:
        raise OperatorError(f"ledger {url} cannot be locked: {error}") from error
    lock.release()
    return False


def beside_ledger(url: str, suffix: str) -> Path:
    """A file of the server's own beside the ledger. Raises OperatorError for an URL that is no ledger's."""
    return Path(f"{_ledger_file(url)}{suffix}")


def migrate(url: str) -> str:
    """Bring a ledger's schema to this program's version and return that version. Raises OperatorError."""
    database = _connect(url, LOCK_TIMEOUT_S)
    with _opening(url), database.writing() as connection:
        _require_known(connection, url)
        command.upgrade(_alembic_config(connection), "head")
    database.close()
    return _head_revision()


def _ledger_file(url: str) -> Path:
    """The file that a ledger URL names; its folder is there."""
    try:
        parsed = make_url(url)
    except ArgumentError as error:
        raise OperatorError(f"ledger is {url!r}; allowed is sqlite:///FILE") from error
    if parsed.drivername not in ("sqlite", "sqlite+pysqlite") or not parsed.database or parsed.database == ":memory:":
        raise OperatorError(f"ledger is {url!r}; allowed is sqlite:///FILE (three slashes, then a path to a file)")
    if parsed.query:
        raise OperatorError(f"ledger is {url!r}; allowed is sqlite:///FILE without parameters")
    file = Path(parsed.database).resolve()  # two names of one file must not be two locks
    if not file.parent.is_dir():
        raise OperatorError(f"ledger is {url!r}, but the folder {file.parent} does not exist")
    return file


def _connect(url: str, lock_timeout_s: float) -> Database:
    file = _ledger_file(url)
    try:
        file.touch()  # an empty file is an empty database
    except OSError as error:
        raise OperatorError(f"ledger is {url!r}, but {file} cannot be written: {error.strerror}") from error
    engine = create_engine(
        make_url("sqlite://").set(database=str(file)),
        connect_args={"timeout": lock_timeout_s, "check_same_thread": False},
    )
    event.listen(engine, "connect", _configure_sqlite)
    event.listen(engine, "begin", _begin_sqlite)
    return Database(engine, file)


@contextmanager
def _opening(url: str) -> Iterator[None]:
    try:
        yield
    except Refusal as error:
        cause = error.__cause__
        raise OperatorError(f"ledger {url} cannot be opened: {getattr(cause, 'orig', cause)}") from error


def _file_id(file: Path) -> tuple[int, int]:
    status = file.stat()
    return status.st_dev, status.st_ino


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


def _require_current(connection: Connection, url: str) -> None:
    _require_known(connection, url)
    revision = _revision(connection)
    if revision != _head_revision():
        raise OperatorError(
            f"ledger {url} has schema {revision}, this program writes {_head_revision()}: "
            f"run `teacher ledger migrate --ledger {url}`"
        )
