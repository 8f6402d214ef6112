"""A backup that is put to use says so in every chain, before anything is sold from it.

What was charged after the backup was taken is gone from the ledger; a client that holds the receipts finds that its
chain forks where the restore event stands.
"""

from sqlalchemy import Connection, select, update

from teacher_server.ledger.chain.events import Happening, append_event
from teacher_server.ledger.chain.signing import Signer
from teacher_server.ledger.tables import keys, ledger

_BACKUP_AT = select(ledger.c.backup_at)


def is_backup(connection: Connection) -> bool:
    """Whether this is a backup that nobody has put to use yet."""
    return connection.execute(_BACKUP_AT).scalar_one() is not None


def note_restore(connection: Connection, signer: Signer) -> None:
    """Append the restore event to every chain of this backup; inside a writer's transaction.

    Raises SigningKeyUnusable.
    """
    backup_at = connection.execute(_BACKUP_AT).scalar_one()
    connection.execute(update(ledger).values(backup_at=None))
    for row in connection.execute(select(keys).order_by(keys.c.id)).mappings().all():
        append_event(connection, signer, row, Happening("restore", detail=backup_at))
