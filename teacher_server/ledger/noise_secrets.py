"""What noise on answers is drawn from: a secret for each version of a teacher, made once, the same for all servers.

It is in the database and in its backups, and nowhere else: no command prints it, no export and no event holds it.
"""

import secrets
from collections.abc import Mapping

from sqlalchemy import Connection, select
from sqlalchemy.dialects.postgresql import insert as postgresql_insert
from sqlalchemy.dialects.sqlite import insert as sqlite_insert

from shared.wire.error_codes import ErrorCode
from teacher_server.errors import Refusal
from teacher_server.ledger.clock import now
from teacher_server.ledger.databases.database import Database
from teacher_server.ledger.tables import noise_secrets

SECRET_BYTES = 32
_MAKE = {
    "sqlite": sqlite_insert(noise_secrets).on_conflict_do_nothing(),
    "postgresql": postgresql_insert(noise_secrets).on_conflict_do_nothing(),
}


def find_noise_secret(database: Database, teacher: str, version: str) -> bytes | None:
    """The secret of this version; None before the first answer with noise.

    Raises Refusal(ledger_unavailable), and Refusal(ledger_inconsistent) for what is no such secret.

    Read each time, never kept: a backup may be put in the place of the ledger while a server has it open.
    """
    with database.reading() as connection:
        return _read(connection, {"teacher": teacher, "version": version})


def noise_secret(database: Database, teacher: str, version: str) -> bytes:
    """The secret of this version, durably made where there is none yet. Raises Refusal as ``find_noise_secret``."""
    place = {"teacher": teacher, "version": version}
    if found := find_noise_secret(database, **place):
        return found
    row = place | {"secret": secrets.token_bytes(SECRET_BYTES), "created_at": now()}

    def work(connection: Connection) -> bytes:
        # Of two servers that ask at once the first one's row is both's.
        connection.execute(_MAKE[connection.dialect.name], row)
        made = _read(connection, place)
        assert made is not None, "the row that was inserted, or that kept it from being inserted, is there"
        return made

    return database.write(work)


def _read(connection: Connection, place: Mapping[str, str]) -> bytes | None:
    wanted = [noise_secrets.c[name] == value for name, value in place.items()]
    found: object = connection.execute(select(noise_secrets.c.secret).where(*wanted)).scalar()
    if found is None:
        return None
    if not isinstance(found, bytes) or len(found) != SECRET_BYTES:  # SQLite's cells hold anything
        raise Refusal(
            ErrorCode.LEDGER_INCONSISTENT,
            f"what noise on answers of version {place['version']!r} is drawn from is damaged, so none is answered or "
            "charged until the owner has mended it",
        )
    return found
