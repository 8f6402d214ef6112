"""The end of a key by its date, told once in its chain by whoever notices first."""

from collections.abc import Mapping
from typing import Any

from sqlalchemy import Connection, RowMapping, select, update

from teacher_server.ledger.chain.events import Happening, append_event
from teacher_server.ledger.chain.signing import Signer
from teacher_server.ledger.clock import now
from teacher_server.ledger.databases.database import Database
from teacher_server.ledger.tables import keys


def note_expiry(connection: Connection, signer: Signer, row: Mapping[str, Any] | RowMapping) -> bool:
    """Append the expire event to a key (its row, locked) that has expired; whether it had to be.

    A key that was revoked before has ended already. A later expiry date makes it possible again.
    """
    if row["expires_at"] is None or row["expires_at"] > now() or row["expiry_noted"] or row["revoked_at"]:
        return False
    connection.execute(update(keys).where(keys.c.id == row["id"]).values(expiry_noted=1))
    append_event(connection, signer, row, Happening("expire", detail=row["expires_at"]))
    return True


def note_expired_keys(database: Database) -> list[str]:
    """Note the expiry of every key that has expired unnoticed; returns their names.

    Raises Refusal(ledger_unavailable), with those before it noted.
    """
    expired = (keys.c.expires_at <= now()) & (keys.c.expiry_noted == 0) & keys.c.revoked_at.is_(None)
    with database.reading() as connection:
        found = connection.execute(select(keys.c.id, keys.c.name).where(expired).order_by(keys.c.id)).all()
    noted = []
    for key_id, name in found:

        def work(connection: Connection, key_id: int = key_id) -> bool:
            row = connection.execute(select(keys).where(keys.c.id == key_id).with_for_update()).mappings().one()
            return note_expiry(connection, database.signer, row)

        if database.write(work):
            noted.append(name)
    return noted
