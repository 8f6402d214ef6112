"""A new secret for a key, whose old one stays valid for a while."""

from datetime import timedelta

from sqlalchemy import delete, insert, select, update

from teacher_server.errors import OperatorError
from teacher_server.ledger.chain.events import Happening, append_event
from teacher_server.ledger.clock import as_text, moment, now
from teacher_server.ledger.databases.database import Database
from teacher_server.ledger.keys.issuing import Key, canonical_detail, key_from_row, locked_row, require_not_revoked
from teacher_server.ledger.keys.key_secrets import new_secret
from teacher_server.ledger.tables import keys, retiring_secrets

OVERLAP_MAX = timedelta(days=366)


def rotate_secret(database: Database, *, name: str, overlap: timedelta) -> tuple[Key, str, str | None]:
    """Give a key a new secret; the old one opens it for ``overlap`` more, and those before that no longer.

    Returns the key, its new secret, which is stored nowhere, and the time until which the old one is valid (None: it
    is not). Raises OperatorError for an unknown or revoked key, or a senseless overlap.
    """
    if not timedelta(0) <= overlap <= OVERLAP_MAX:
        raise OperatorError(f"overlap is {overlap}; allowed are 0 to {OVERLAP_MAX.days} days")
    secret = new_secret()
    until = as_text(moment() + overlap) if overlap else None
    with database.writing() as connection:
        row = locked_row(connection, name)
        require_not_revoked(row)
        # One old secret at most: whoever rotates twice within the overlap has lost the first one, or had it stolen.
        connection.execute(delete(retiring_secrets).where(retiring_secrets.c.key_id == row["id"]))
        if until:
            old = {"lookup": row["lookup"], "secret_sha256": row["secret_sha256"]}
            connection.execute(insert(retiring_secrets).values(key_id=row["id"], expires_at=until, **old))
        new = {"lookup": secret.lookup, "secret_sha256": secret.sha256}
        connection.execute(update(keys).where(keys.c.id == row["id"]).values(**new))
        detail = canonical_detail({"old_secret_valid_until": until or "now"})
        append_event(connection, database.signer, row, Happening("rotate", detail=detail))
    return key_from_row(row), secret.text, until


def old_secret_valid_until(database: Database, key: Key) -> str | None:
    """Until when a key's secret of before its rotation is valid; None when there is none that is."""
    valid = (retiring_secrets.c.key_id == key.id) & (retiring_secrets.c.expires_at > now())
    with database.reading() as connection:
        return connection.execute(select(retiring_secrets.c.expires_at).where(valid)).scalar()
