"""A ledger in PostgreSQL: several server processes may serve it at once."""

from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import URL, Connection, Engine, create_engine, text

from teacher_server.ledger.databases.backend import Backend

CONNECTIONS_MAX = 16  # of one process; PostgreSQL itself takes 100 unless told otherwise
_CONNECT_TIMEOUT_S = 5
_MIGRATION_LOCK = 0x7EAC4E5  # any two numbers that nobody else takes
_ALONE_LOCK = 0x7EAC4E6


def open_postgresql(url: URL, *, lock_timeout_s: float) -> Backend:
    """Engines on the database at ``url``; nothing is connected yet.

    A lock, a statement and an idle transaction each end after ``lock_timeout_s``, and a connection whose other side
    is gone is given up after it: a request then gets 503 and may ask again.
    """
    milliseconds = max(1, int(lock_timeout_s * 1000))
    options = (
        f"-c lock_timeout={milliseconds} -c statement_timeout={milliseconds} "
        f"-c idle_in_transaction_session_timeout={milliseconds} -c synchronous_commit=on"
    )
    engine = create_engine(
        url,
        hide_parameters=True,  # of statements in errors, which go to the log
        pool_size=CONNECTIONS_MAX,
        max_overflow=0,
        pool_timeout=lock_timeout_s,
        pool_use_lifo=True,
        connect_args={
            "options": options,
            "connect_timeout": _CONNECT_TIMEOUT_S,
            "tcp_user_timeout": milliseconds,
            "application_name": "teacher",
        },
    )
    return Backend(
        reading=engine.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True),
        writing=engine,
        require_there=lambda: None,
        lock_for_migration=_lock_for_migration,
        has_one_writer=False,
        alone=lambda: _alone(engine),
    )


def _lock_for_migration(connection: Connection) -> None:
    connection.execute(text("SELECT pg_advisory_xact_lock(:number)"), {"number": _MIGRATION_LOCK})


@contextmanager
def _alone(engine: Engine) -> Iterator[bool]:
    """A lock of the session, which ends with it however it ends; no transaction stays open meanwhile."""
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        number = {"number": _ALONE_LOCK}
        is_alone = bool(connection.execute(text("SELECT pg_try_advisory_lock(:number)"), number).scalar_one())
        try:
            yield is_alone
        finally:
            if is_alone:
                connection.execute(text("SELECT pg_advisory_unlock(:number)"), number)
