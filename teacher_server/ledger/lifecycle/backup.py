"""A copy of a live SQLite ledger: as it was at one moment, verified, marked as a copy, whole or not there at all."""

import os
import secrets
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from teacher_server.errors import OperatorError, Refusal
from teacher_server.ledger.audit.auditing import AuditReport, audit_ledger
from teacher_server.ledger.clock import now
from teacher_server.ledger.databases.database import Database
from teacher_server.ledger.databases.whole_file import sync_folder
from teacher_server.ledger.lifecycle.opening import open_database


@dataclass(frozen=True)
class Backup:
    """What was written."""

    file: Path
    at: str
    report: AuditReport


def back_up(database: Database, file: Path) -> Backup:
    """Copy the ledger into ``file``, which must not be there, while others charge; the signing key is not in it.

    The copy is a ledger like any other; whoever writes to it first leaves a restore event in every chain.
    Raises OperatorError: for PostgreSQL, for a file that is there, for a ledger that is not sound (nothing is kept
    then). Raises Refusal(ledger_unavailable).
    """
    if database.address.file is None:
        raise OperatorError(
            f"{database.address.shown} is a PostgreSQL ledger; pg_dump copies it while it is in use. Keep its "
            "signing key apart from the copy"
        )
    if os.path.lexists(file):
        raise OperatorError(f"{file} is there already; a backup never replaces anything")
    at = now()
    try:
        with _draft(file) as draft:
            with database.reading() as connection, closing(sqlite3.connect(draft)) as copy:
                source = connection.connection.driver_connection
                assert isinstance(source, sqlite3.Connection)
                source.backup(copy)  # in one step, from the snapshot of this transaction
                copy.execute("PRAGMA journal_mode = DELETE")
                copy.execute("UPDATE ledger SET backup_at = ?", (at,))
                copy.commit()
            report = _verified(draft)
            _settle(draft)
            os.link(draft, file)  # never over anything
            sync_folder(file.parent)
    except (OSError, sqlite3.Error) as error:
        raise OperatorError(f"{file} cannot be written: {getattr(error, 'strerror', None) or error}") from error
    return Backup(file, at, report)


@contextmanager
def _draft(file: Path) -> Iterator[Path]:
    """An empty file that only its owner can read, removed at the end with what SQLite put beside it."""
    draft = file.with_name(f".{file.name}.{secrets.token_hex(4)}")
    os.close(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
    try:
        yield draft
    finally:
        for suffix in ("", "-journal", "-wal", "-shm"):
            Path(f"{draft}{suffix}").unlink(missing_ok=True)


def _verified(draft: Path) -> AuditReport:
    try:
        with closing(open_database(f"sqlite:///{draft}", create=False)) as copy:
            report = audit_ledger(copy)
    except Refusal as error:
        cause = error.__cause__  # SQLAlchemy's own text has several lines; the driver's error has one
        raise OperatorError(f"the copy cannot be read: {getattr(cause, 'orig', cause)}") from error
    if not report.is_sound:
        shown = "; ".join(map(str, report.faults[:3]))
        raise OperatorError(f"no backup was written, the ledger is not sound: {shown}. See `teacher audit verify`")
    return report


def _settle(draft: Path) -> None:
    """One file again, without a log beside it, and on the disk."""
    with closing(sqlite3.connect(draft)) as connection:
        found = connection.execute("PRAGMA integrity_check").fetchone()
        if found != ("ok",):
            raise OperatorError(f"no backup was written, the ledger's file is damaged: {found}")
        connection.execute("PRAGMA journal_mode = DELETE")
    descriptor = os.open(draft, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
