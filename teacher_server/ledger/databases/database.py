"""Transactions on one open ledger, whichever database it is in."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from sqlalchemy import Connection, text
from sqlalchemy.exc import SQLAlchemyError

from shared.wire.error_codes import ErrorCode
from teacher_server.errors import Refusal
from teacher_server.ledger.chain.signing import Signer, current_fingerprint
from teacher_server.ledger.databases.address import LedgerAddress
from teacher_server.ledger.databases.backend import Backend
from teacher_server.ledger.databases.group_commit import GroupCommit
from teacher_server.ledger.lifecycle.restoring import is_backup, note_restore

_UNAVAILABLE = "the ledger cannot be used now; ask again with the same Idempotency-Key: it is charged at most once"
_UNKNOWN = (
    "the ledger did not say whether it kept the charge; ask again with the same Idempotency-Key, which finds out and "
    "is charged at most once"
)
_COMMIT_IS_FRESH_S = 2.0
T = TypeVar("T")


class Database:
    """Reads see a snapshot; writes are durable once they return. Every method may be called from any thread."""

    def __init__(self, backend: Backend, address: LedgerAddress, signer: Signer) -> None:
        self.address = address
        self.signer = signer
        self._backend = backend
        self._group: GroupCommit | None = None
        self._committed_at = -_COMMIT_IS_FRESH_S

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """A read transaction. Raises Refusal(ledger_unavailable) when the ledger cannot be read."""
        try:
            self._backend.require_there()
            with self._backend.reading.begin() as connection:
                yield connection
        except (SQLAlchemyError, OSError) as error:
            raise Refusal(ErrorCode.LEDGER_UNAVAILABLE, _UNAVAILABLE, charged="no") from error

    @contextmanager
    def writing(self) -> Iterator[Connection]:
        """A durable write transaction: committed and fsynced on leaving, rolled back on any exception.

        Where the ledger is a backup, the first of them says so in every chain before anything else.

        On SQLite it holds the writer's lock from its first statement, so what it reads cannot change before it
        commits, whoever else (the command line, another process) writes; on PostgreSQL lock the key's row first.
        Raises Refusal(ledger_unavailable) when the ledger cannot be written; its member ``charged`` is "unknown" when
        the commit itself failed, which may have reached the disk.
        """
        with self._transaction() as connection:
            # Asked each time: a backup may be restored into a file that is in use. Only SQLite's are marked.
            if self.address.file is not None and is_backup(connection):
                note_restore(connection, self.signer)
            yield connection

    @contextmanager
    def _transaction(self) -> Iterator[Connection]:
        try:
            self._backend.require_there()
            with self._backend.writing.connect() as connection:
                transaction = connection.begin()
                try:
                    yield connection
                except BaseException:
                    transaction.rollback()
                    raise
                self._commit(connection)
        except (SQLAlchemyError, OSError) as error:
            raise Refusal(ErrorCode.LEDGER_UNAVAILABLE, _UNAVAILABLE, charged="no") from error

    def _commit(self, connection: Connection) -> None:
        try:
            self._backend.require_there()
            connection.commit()
        except (SQLAlchemyError, OSError) as error:
            connection.invalidate(error)  # whatever state it is in, nobody uses it again
            raise Refusal(ErrorCode.LEDGER_UNAVAILABLE, _UNKNOWN, charged="unknown") from error
        self._committed_at = time.monotonic()

    def write(self, work: Callable[[Connection], T]) -> T:
        """Do ``work`` in a durable transaction, perhaps shared with others that wait, and return what it returned.

        ``work`` may run twice, from the beginning, when a neighbour's failure spoilt the first attempt.
        Raises what ``work`` raises, after which nothing that it wrote is kept, and Refusal as ``writing``.
        """
        if self._group is not None:
            return self._group.run(work)
        with self.writing() as connection:
            return work(connection)

    def share_commits(self) -> None:
        """From now on let ``write`` group what waits, where the database has one writer anyway (SQLite)."""
        if self._backend.has_one_writer and self._group is None:
            self._group = GroupCommit(self.writing)

    @property
    def shared_commits(self) -> int:
        """How many transactions ``write`` has committed since ``share_commits``."""
        return self._group.commits if self._group else 0

    def check_writable(self) -> None:
        """Take the writer's lock, and commit something that changes nothing unless a commit has just succeeded.

        A full disk shows only when something is written; strangers who ask often shall not make it busy.
        Raises Refusal(ledger_unavailable).
        """
        if time.monotonic() - self._committed_at > _COMMIT_IS_FRESH_S:
            with self.writing() as connection:
                self._require_signing_key(connection)
                connection.execute(text("UPDATE ledger SET created_at = created_at"))
            return
        try:
            self._backend.require_there()
            with self._backend.writing.connect() as connection:
                transaction = connection.begin()
                self._require_signing_key(connection)
                transaction.rollback()
        except (SQLAlchemyError, OSError) as error:
            raise Refusal(ErrorCode.LEDGER_UNAVAILABLE, _UNAVAILABLE, charged="no") from error

    def _require_signing_key(self, connection: Connection) -> None:
        """Raise SigningKeyUnusable where the next event could not be signed."""
        current = current_fingerprint(connection)
        if current is not None:
            self.signer.private_key(current)

    @contextmanager
    def migrating(self) -> Iterator[Connection]:
        """A write transaction that keeps every other migration out. Raises Refusal as ``writing``."""
        with self._transaction() as connection:
            if self._backend.lock_for_migration is not None:
                self._backend.lock_for_migration(connection)
            yield connection

    def note_restore(self) -> None:
        """Put a backup to use (see ``restoring``); nothing for any other ledger. Raises Refusal as ``writing``."""
        if self.address.file is None:
            return
        with self.reading() as connection:
            wanted = is_backup(connection)
        if wanted:
            with self.writing():
                pass  # its first act

    @contextmanager
    def alone(self) -> Iterator[bool]:
        """Keep out other processes on this ledger that ask for this too; False where one of them is in.

        For what may take long, as no transaction is open meanwhile. Raises Refusal(ledger_unavailable).
        """
        try:
            with self._backend.alone() as is_alone:
                yield is_alone
        except SQLAlchemyError as error:
            raise Refusal(ErrorCode.LEDGER_UNAVAILABLE, _UNAVAILABLE, charged="no") from error

    def close(self) -> None:
        """Finish what waits and close every connection."""
        if self._group is not None:
            self._group.close()
        self._backend.writing.dispose()
