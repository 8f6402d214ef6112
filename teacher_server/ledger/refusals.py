"""Refusals that a key's chain tells of: one event per reason, until something changes."""

from collections.abc import Mapping
from typing import Any

from sqlalchemy import Connection, RowMapping, select, update

from shared.wire.error_codes import ErrorCode
from teacher_server.errors import Refusal
from teacher_server.ledger.chain import Happening, append_event
from teacher_server.ledger.database import Database
from teacher_server.ledger.keys import Key
from teacher_server.ledger.signing import Signer
from teacher_server.ledger.tables import keys

# The others are matters of the moment, or of a stranger; they are counted, not recorded.
_RECORDED = (ErrorCode.BUDGET_EXHAUSTED, ErrorCode.DAILY_BUDGET_EXHAUSTED, ErrorCode.UNAUTHENTICATED)


def budget_exhausted(*, granted: int, spent: int, asked: int) -> Refusal:
    """The refusal of a request that the durably spent count leaves no room for."""
    return Refusal(
        ErrorCode.BUDGET_EXHAUSTED,
        f"{asked} images asked for, {granted - spent} of {granted} remain; ask the owner for a grant",
        granted=granted,
        spent=spent,
        asked=asked,
    )


def note_in_chain(
    connection: Connection,
    signer: Signer,
    row: Mapping[str, Any] | RowMapping,
    refusal: Refusal,
    *,
    images: int,
    teacher: str,
) -> None:
    """Append a refuse event to a key (its row, locked), unless the last one had the same reason and nothing changed.

    What changes it: an answer, a grant, a change of policy; each sets ``refusing`` back to "".
    """
    if refusal.code not in _RECORDED or row["refusing"] == refusal.code:
        return
    connection.execute(update(keys).where(keys.c.id == row["id"]).values(refusing=refusal.code.value))
    happening = Happening("refuse", images=images, teacher=teacher, detail=refusal.code.value)
    append_event(connection, signer, row, happening)


def note_refusal(database: Database, key: Key, refusal: Refusal, *, images: int, teacher: str) -> None:
    """As ``note_in_chain``, for a refusal from what was read of ``key`` before any charge was tried.

    Asks the database only when the key's last event is not this refusal already. Raises Refusal(ledger_unavailable).
    """
    if refusal.code not in _RECORDED or key.refusing == refusal.code:
        return

    def work(connection: Connection) -> None:
        row = connection.execute(select(keys).where(keys.c.id == key.id).with_for_update()).mappings().one()
        note_in_chain(connection, database.signer, row, refusal, images=images, teacher=teacher)

    database.write(work)
