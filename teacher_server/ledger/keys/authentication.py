"""Whose key is this? Two secrets open a key for a while after its rotation."""

import hmac
import logging

from sqlalchemy import bindparam, select, union_all

from shared.wire.error_codes import ErrorCode
from teacher_server.errors import Refusal
from teacher_server.ledger.chain.refusals import note_refusal
from teacher_server.ledger.clock import now
from teacher_server.ledger.databases.database import Database
from teacher_server.ledger.keys.issuing import Key, key_from_row, require_in_use
from teacher_server.ledger.keys.key_secrets import hash_secret, lookup_of
from teacher_server.ledger.tables import keys, retiring_secrets

_NO_SECRET = "0" * 64
_KEY_COLUMNS = [column for column in keys.c if column.name != "secret_sha256"]
# One statement for both, so that the time taken does not tell which of them knows a secret.
_BY_LOOKUP = union_all(
    select(*_KEY_COLUMNS, keys.c.secret_sha256).where(keys.c.lookup == bindparam("lookup")),
    select(*_KEY_COLUMNS, retiring_secrets.c.secret_sha256)
    .join(retiring_secrets, retiring_secrets.c.key_id == keys.c.id)
    .where(retiring_secrets.c.lookup == bindparam("lookup"), retiring_secrets.c.expires_at > bindparam("now")),
)
_log = logging.getLogger("teacher_server")


def authenticate(database: Database, secret: str) -> Key:
    """The key that ``secret`` belongs to.

    Raises Refusal(unauthenticated): alike for everything that is no key's secret; for the secret of a revoked or
    expired key, whose chain then tells of it once, it says so. Raises Refusal(ledger_unavailable).
    The hash is compared in constant time, and compared even when no such key exists.
    """
    row = None
    if lookup := lookup_of(secret):
        with database.reading() as connection:
            row = connection.execute(_BY_LOOKUP, {"lookup": lookup, "now": now()}).mappings().first()
    stored = row["secret_sha256"] if row else _NO_SECRET
    if not hmac.compare_digest(stored, hash_secret(secret)) or row is None:
        raise Refusal(ErrorCode.UNAUTHENTICATED, "no valid key: send `Authorization: Bearer KEY` with a key in use")
    key = key_from_row(row)
    try:
        require_in_use(key)
    except Refusal as refusal:
        _note(database, key, refusal)
        raise
    return key


def _note(database: Database, key: Key, refusal: Refusal) -> None:
    """Tell of it in the chain; a ledger that cannot be written now does not make the refusal another one."""
    try:
        note_refusal(database, key, refusal, images=0, teacher="")
    except Refusal as unavailable:
        _log.warning("key %s: its refusal is not noted: %s", key.name, unavailable.__cause__)
