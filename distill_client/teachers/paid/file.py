"""The store's SQLite file as one place to read from and write to, whichever thread does it."""

import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from distill_client.errors import RunStoreError
from distill_client.teachers.paid.schema import open_file


class StoreFile:
    """One connection, and a lock that keeps one thread's transaction from the others' statements."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._connection = open_file(path)
        self._lock = threading.RLock()

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._connection.close()

    def read(self, statement: str, *parameters: str | int) -> list[tuple[Any, ...]]:
        """Every row of a query. Raises RunStoreError."""
        with self._lock:
            return list(self.rows(statement, *parameters))

    def rows(self, statement: str, *parameters: str | int) -> Iterator[tuple[Any, ...]]:
        """The rows of a query one by one, for more than fit into memory; nothing may be written meanwhile."""
        try:
            yield from self._connection.execute(statement, parameters)
        except sqlite3.Error as error:
            raise RunStoreError(f"{self.path}: the paid answers cannot be read: {error}") from error

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """All of it or nothing; on the disk when it ends. One inside another is part of it. Raises RunStoreError."""
        with self._lock:
            if self._is_in_transaction():
                yield self._connection
                return
            try:
                self._connection.execute("BEGIN IMMEDIATE")
                try:
                    yield self._connection
                    self._connection.execute("COMMIT")
                except BaseException:
                    if self._is_in_transaction():  # a full disk may have ended it already
                        self._connection.execute("ROLLBACK")
                    raise
            except sqlite3.Error as error:
                raise RunStoreError(f"{self.path}: the paid answers cannot be written: {error}") from error

    def _is_in_transaction(self) -> bool:
        return self._connection.in_transaction
