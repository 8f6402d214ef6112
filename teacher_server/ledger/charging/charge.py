"""An answer and its charge, in one durable transaction."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Connection, RowMapping, bindparam, delete, insert, select, update
from sqlalchemy.dialects.postgresql import insert as postgresql_insert
from sqlalchemy.dialects.sqlite import insert as sqlite_insert

from shared.wire.error_codes import ErrorCode
from shared.wire.images import answer_digest, encode_npy
from teacher_server.errors import Refusal
from teacher_server.ledger.chain.events import Happening, append_after, read_head
from teacher_server.ledger.chain.refusals import note_in_chain
from teacher_server.ledger.chain.signing import Signer
from teacher_server.ledger.charging.answers import Answered, Expired, Question, look_up
from teacher_server.ledger.clock import now
from teacher_server.ledger.databases.database import Database
from teacher_server.ledger.keys.issuing import Key, key_from_row, require_in_use
from teacher_server.ledger.keys.limits import Standing, read_standing, refuse_by_limits
from teacher_server.ledger.tables import answers, event_images, keys

# Built once: building a statement costs more than a small database takes to run it.
# SQLite ignores FOR UPDATE: there the whole transaction already holds the writer's lock.
_LOCK_KEY = select(keys).where(keys.c.id == bindparam("key_id")).with_for_update()
_CLAIM = {
    # Returning, because psycopg's count of inserted rows is not handed on by SQLAlchemy.
    "sqlite": sqlite_insert(answers).on_conflict_do_nothing().returning(answers.c.sequence),
    "postgresql": postgresql_insert(answers).on_conflict_do_nothing().returning(answers.c.sequence),
}
_SPEND = (
    update(keys)
    .where(keys.c.id == bindparam("key"), keys.c.spent + bindparam("images") <= keys.c.granted)
    .values(spent=keys.c.spent + bindparam("images"), refusing="")
)
_KEEP_IMAGES = insert(event_images)


@dataclass(frozen=True)
class Computed:
    """What was worked out for a question: the disclosed values, by which version, for how many images."""

    version: str
    images: int
    disclosed: NDArray[np.float32] | NDArray[np.int64]
    fingerprints: bytes
    teacher_digest: str = ""


def charge(database: Database, question: Question, computed: Computed, *, request_id: str) -> Answered | Expired:
    """Charge ``computed.images`` and keep the answer, all or nothing, exactly once per idempotency key.

    Gives the stored answer (or what is left of it) when another request under the same idempotency key came first.
    Raises Refusal, from what is durably spent: budget_exhausted, daily_budget_exhausted, rate_limited,
    too_many_images; and unauthenticated (the key was revoked or expired meanwhile), idempotency_key_reused,
    ledger_unavailable.
    """

    def work(connection: Connection) -> Answered | Expired | Refusal:
        return _charge(connection, database.signer, question, computed, request_id)

    outcome = database.write(work)
    if isinstance(outcome, Refusal):  # returned, not raised, so that the event that tells of it is kept
        raise outcome
    return outcome


def _charge(
    connection: Connection, signer: Signer, question: Question, computed: Computed, request_id: str
) -> Answered | Expired | Refusal:
    row = lock_key(connection, question.key.id)
    head = read_head(connection, row["id"])
    body = encode_npy(computed.disclosed)
    if not _claim(connection, question, body, request_id, head.sequence + 1):
        earlier = look_up(connection, question)
        assert earlier is not None, "the row that made the insert fail is there"
        return earlier
    key = key_from_row(row)
    standing = read_standing(connection, key, last_at=head.at)
    if refusal := _refuse(connection, key, standing, question.key, computed.images):
        connection.execute(
            delete(answers).where(
                answers.c.key_id == question.key.id, answers.c.idempotency_key == question.idempotency_key
            )
        )
        note_in_chain(connection, signer, row, refusal, images=computed.images, teacher=question.teacher)
        return refusal
    _spend(connection, row, computed.images)
    happening = Happening(
        "answer",
        images=computed.images,
        teacher=question.teacher,
        version=computed.version,
        teacher_digest=computed.teacher_digest,
        input_digest=question.input_digest,
        answer_digest=answer_digest(computed.disclosed),
        idempotency_key=question.idempotency_key,
    )
    row_after = dict(row) | {"spent": row["spent"] + computed.images}
    signed = append_after(head, connection, signer, row_after, happening)
    place = {"key_id": row["id"], "sequence": signed.event.sequence}
    connection.execute(_KEEP_IMAGES, place | {"fingerprints": computed.fingerprints})
    after = standing.after(computed.images)
    return Answered(signed, request_id, computed.disclosed, is_replay=False, standing=after)


def lock_key(connection: Connection, key_id: int) -> RowMapping:
    """A key's row, which nobody else changes before this transaction ends."""
    return connection.execute(_LOCK_KEY, {"key_id": key_id}).mappings().one()


def _claim(connection: Connection, question: Question, body: bytes, request_id: str, sequence: int) -> bool:
    """Insert the row whose uniqueness decides; False when this idempotency key is already charged."""
    claimed = connection.execute(
        _CLAIM[connection.dialect.name],
        {
            "key_id": question.key.id,
            "idempotency_key": question.idempotency_key,
            "teacher": question.teacher,
            "input_digest": question.input_digest,
            "request_id": request_id,
            "sequence": sequence,
            "disclosed_npy": body,
            "answered_at": now(),
            "body_bytes": len(body),
        },
    )
    return claimed.first() is not None


def _refuse(connection: Connection, key: Key, standing: Standing, asking: Key, images: int) -> Refusal | None:
    """Why this key may not buy so many images now; None when it may. ``asking``: as it was when the request came."""
    try:
        require_in_use(key)
    except Refusal as refusal:
        return refusal
    if key.disclosure != asking.disclosure:  # what was computed is not what the key may see now
        return Refusal(
            ErrorCode.LEDGER_UNAVAILABLE,
            "the key's disclosure changed while it was answered; ask again",
            charged="no",
        )
    return refuse_by_limits(connection, key, standing, images)


def _spend(connection: Connection, row: RowMapping, images: int) -> None:
    """Add to spent by a conditional update that cannot pass the budget, whatever was read before."""
    updated = connection.execute(_SPEND, {"key": row["id"], "images": images})
    if updated.rowcount != 1:
        raise Refusal(ErrorCode.LEDGER_UNAVAILABLE, "the key changed while it was charged; ask again", charged="no")
