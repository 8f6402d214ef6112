"""Opening a ledger, making a new one, and bringing an older one to this program's schema."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, inspect

from teacher_server.errors import OperatorError, Refusal
from teacher_server.ledger.chain.signing import Signer, ensure_signing_key
from teacher_server.ledger.databases.address import LedgerAddress, parse_ledger_url
from teacher_server.ledger.databases.database import Database
from teacher_server.ledger.databases.postgresql import open_postgresql
from teacher_server.ledger.databases.sqlite import open_sqlite

LOCK_TIMEOUT_S = 30
_MIGRATIONS = Path(__file__).parent.parent / "migrations"


def open_database(
    url: str, *, create: bool, signing_key: Path | None = None, lock_timeout_s: float = LOCK_TIMEOUT_S
) -> Database:
    """Open a ledger, or make it, with its signing key, where there is none and ``create`` is set.

    ``signing_key`` is the file of its private key (default: beside a SQLite ledger), which only writing needs.
    Waits for other writers for at most ``lock_timeout_s``. Raises OperatorError for a bad URL, a ledger that is not
    there, a database that is none, and a ledger whose schema is older, newer or unknown, which is not touched.
    """
    address = parse_ledger_url(url)
    if not create and address.file and not address.file.exists():
        raise OperatorError(
            f"ledger is {address.shown!r}, but there is no such file; `teacher ledger init` makes one"
        )
    with _opening(address, signing_key, lock_timeout_s) as database:
        with database.reading() as connection:
            tables = inspect(connection).get_table_names()
        if not tables and not create:
            raise OperatorError(f"ledger {address.shown} is empty; `teacher ledger init` makes a ledger of it")
        if not tables:
            _migrate_if_empty(database)
        with database.reading() as connection:
            _require_current(connection, address)
    return database


def migrate(url: str, *, signing_key: Path | None = None) -> str:
    """Bring a ledger to this program's schema, give it a signing key if it has none, and return its schema's version.

    Raises OperatorError; the ledger is as it was then.
    """
    address = parse_ledger_url(url)
    if address.file and not address.file.exists():
        raise OperatorError(
            f"ledger is {address.shown!r}, but there is no such file; `teacher ledger init` makes one"
        )
    with _opening(address, signing_key, LOCK_TIMEOUT_S) as database, database.migrating() as connection:
        _require_known(connection, address)
        command.upgrade(_alembic_config(connection), "head")
        ensure_signing_key(connection, database.signer)
    database.close()
    return _head_revision()


def _connect(address: LedgerAddress, signing_key: Path | None, lock_timeout_s: float) -> Database:
    signer = Signer(address.signing_key_file(signing_key))
    if address.file:
        return Database(open_sqlite(address.file, lock_timeout_s=lock_timeout_s), address, signer)
    return Database(open_postgresql(address.url, lock_timeout_s=lock_timeout_s), address, signer)


@contextmanager
def _opening(address: LedgerAddress, signing_key: Path | None, lock_timeout_s: float) -> Iterator[Database]:
    """Connect; close again, and say what is wrong with the ledger, if it turns out to be none that can be used."""
    database = None
    try:
        database = _connect(address, signing_key, lock_timeout_s)
        yield database
    except BaseException as error:
        if database is not None:
            database.close()
        if not isinstance(error, Refusal):
            raise
        cause = error.__cause__
        reason = " ".join(str(getattr(cause, "orig", cause)).split())
        raise OperatorError(f"ledger {address.shown} cannot be opened: {reason}") from error


def _alembic_config(connection: Connection | None = None) -> Config:
    config = Config()
    config.set_main_option("script_location", str(_MIGRATIONS))
    config.attributes["connection"] = connection
    return config


@cache  # reading the scripts takes longer than all else of opening
def _revisions() -> tuple[str, frozenset[str]]:
    """The head of our schema's revisions, and all of them."""
    scripts = ScriptDirectory.from_config(_alembic_config())
    head = scripts.get_current_head()
    assert head is not None
    return head, frozenset(script.revision for script in scripts.walk_revisions())


def _head_revision() -> str:
    return _revisions()[0]


def _revision(connection: Connection) -> str | None:
    return MigrationContext.configure(connection).get_current_revision()


def _migrate_if_empty(database: Database) -> None:
    """Create the tables where there are none; in one transaction, so that of two openers one does it."""
    with database.migrating() as connection:
        if not inspect(connection).get_table_names():
            command.upgrade(_alembic_config(connection), "head")
            ensure_signing_key(connection, database.signer)


def _require_known(connection: Connection, address: LedgerAddress) -> None:
    revision = _revision(connection)
    if revision is None and inspect(connection).get_table_names():
        raise OperatorError(f"ledger {address.shown} is a database, but not a ledger of this program")
    if revision is not None and revision not in _revisions()[1]:
        raise OperatorError(
            f"ledger {address.shown} has schema {revision}, unknown to this version; use a newer program"
        )


def _require_current(connection: Connection, address: LedgerAddress) -> None:
    _require_known(connection, address)
    revision = _revision(connection)
    if revision != _head_revision():
        raise OperatorError(
            f"ledger {address.shown} has schema {revision}, this program writes {_head_revision()}: "
            f"run `teacher ledger migrate --ledger {address.shown}`"
        )
