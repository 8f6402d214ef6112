"""A ledger in one SQLite file: WAL, synchronous=FULL, transactions begun as writer."""

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import stamina
from sqlalchemy import Connection, create_engine, event
from sqlalchemy.dialects.sqlite.pysqlite import SQLiteDialect_pysqlite
from sqlalchemy.engine import make_url

from teacher_server.errors import OperatorError
from teacher_server.ledger.databases.backend import Backend


def open_sqlite(file: Path, *, lock_timeout_s: float) -> Backend:
    """Engines on ``file``, which is made when it is not there. Raises OperatorError when it cannot be.

    A new file is its owner's alone, and so are the two that SQLite puts beside it, which take its mode: it holds
    hashes of secrets, and what was answered to whom.
    """
    try:
        file.touch(mode=0o600)  # an empty file is an empty database
    except OSError as error:
        raise OperatorError(f"ledger is {file}, which cannot be written: {error.strerror}") from error
    opened = _file_id(file)

    def require_there() -> None:
        # A file that was taken away can still be written through the connections that have it open; what is charged
        # there is charged nowhere.
        if _file_id(file) != opened:
            raise FileNotFoundError(f"{file} is not the file that was opened")

    def configure(connection: Any, _: object) -> None:
        _configure(connection, lock_timeout_s)
        require_there()  # a connection to another file, put in its place just now, would be kept and used

    # mode=rw: the file is made above and nowhere else. A connection that is opened just after it was taken away would
    # otherwise make a new one in its place, although require_there had found it there.
    engine = create_engine(
        make_url("sqlite://").set(database=file.absolute().as_uri(), query={"mode": "rw", "uri": "true"}),
        hide_parameters=True,  # of statements in errors, which go to the log
        connect_args={"timeout": lock_timeout_s, "check_same_thread": False},
    )
    event.listen(engine, "connect", configure)
    event.listen(engine, "begin", _begin)
    return Backend(
        reading=engine,
        writing=engine.execution_options(begin="IMMEDIATE"),
        require_there=require_there,
        lock_for_migration=None,
        has_one_writer=True,
        alone=lambda: nullcontext(True),  # one server per file
    )


def _file_id(file: Path) -> tuple[int, int]:
    status = file.stat()
    return status.st_dev, status.st_ino


def _configure(connection: Any, lock_timeout_s: float) -> None:
    connection.isolation_level = None  # the driver starts no transactions of its own; _begin does
    cursor = connection.cursor()
    # Not waited for by SQLite itself: of several who open a new file at once, one changes it to WAL.
    for attempt in stamina.retry_context(
        on=SQLiteDialect_pysqlite.import_dbapi().OperationalError,
        attempts=None,
        timeout=lock_timeout_s,
        wait_initial=0.01,
        wait_max=0.2,
        wait_jitter=0.05,
    ):
        with attempt:
            cursor.execute("PRAGMA journal_mode = WAL")
    cursor.execute("PRAGMA synchronous = FULL")  # a commit returns after its fsync: an answer survives a power cut
    cursor.execute("PRAGMA foreign_keys = ON")
    cursor.close()


def _begin(connection: Connection) -> None:
    kind = connection.get_execution_options().get("begin", "DEFERRED")
    connection.exec_driver_sql(f"BEGIN {kind}")
