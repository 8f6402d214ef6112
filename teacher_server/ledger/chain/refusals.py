"""Refusals that a key's chain tells of: one event per reason, until something changes."""

from collections.abc import Mapping
from typing import Any

from sqlalchemy import Connection, RowMapping, select, update

from shared.wire.error_codes import ErrorCode
from teacher_server.errors import Refusal
from teacher_server.ledger.chain.events import Happening, append_event
from teacher_server.ledger.chain.signing import Signer
from teacher_server.ledger.databases.database import Database
from teacher_server.ledger.keys.expiry import note_expiry
from teacher_server.ledger.keys.issuing import Key, key_from_row
from teacher_server.ledger.tables import keys

# The others are matters of the moment, or of a stranger; they are counted, not recorded.
_RECORDED = (ErrorCode.BUDGET_EXHAUSTED, ErrorCode.DAILY_BUDGET_EXHAUSTED, ErrorCode.UNAUTHENTICATED)


def note_in_chain(
    connection: Connection,
    signer: Signer,
    row: Mapping[str, Any] | RowMapping,
    refusal: Refusal,
    *,
    images: int,
    teacher: str,
) -> None:
    """Append a refuse event to a key (its row, locked), unless one had the same reason and nothing changed since.

    What changes it: an answer, a grant, a change of policy, a revocation; each sets ``refusing`` back to "".
    A key that turns out to have expired gets its expire event first.
    """
    if refusal.code not in _RECORDED:
        return
    if refusal.code is ErrorCode.UNAUTHENTICATED:
        if key_from_row(row).status == "active":  # it was given a later expiry in this very moment
            return
        note_expiry(connection, signer, row)
    told = row["refusing"].split()
    if refusal.code in told:
        return
    # All reasons told, not the last one: a client that asks too much in two ways by turns must not grow the chain.
    refusing = " ".join([*told, refusal.code.value])
    connection.execute(update(keys).where(keys.c.id == row["id"]).values(refusing=refusing))
    happening = Happening("refuse", images=images, teacher=teacher, detail=refusal.code.value)
    append_event(connection, signer, row, happening)


def note_refusal(database: Database, key: Key, refusal: Refusal, *, images: int, teacher: str) -> None:
    """As ``note_in_chain``, for a refusal from what was read of ``key`` before any charge was tried.

    Asks the database only when the chain does not tell of this refusal already. Raises Refusal(ledger_unavailable).
    """
    if refusal.code not in _RECORDED or refusal.code in key.refusing.split():
        return

    def work(connection: Connection) -> None:
        row = connection.execute(select(keys).where(keys.c.id == key.id).with_for_update()).mappings().one()
        note_in_chain(connection, database.signer, row, refusal, images=images, teacher=teacher)

    database.write(work)
