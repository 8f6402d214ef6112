"""An answer and its charge, in one durable transaction; and the answer given again for a replayed request."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Connection, RowMapping, insert, select, update
from sqlalchemy.exc import IntegrityError

from shared.wire.contracts import Event
from shared.wire.error_codes import ErrorCode
from shared.wire.images import answer_digest, decode_npy, encode_npy
from teacher_server.errors import Refusal
from teacher_server.ledger.chain import Happening, append_event, read_event
from teacher_server.ledger.database import Database
from teacher_server.ledger.keys import Key, key_from_row, require_in_use
from teacher_server.ledger.tables import answers, event_images, keys

Disclosed = NDArray[np.float32] | NDArray[np.int64]


@dataclass(frozen=True)
class Question:
    """What identifies a request: under one idempotency key, all of it must be the same.

    ``version`` is that of the address asked at, None where any version of the teacher may answer.
    """

    key: Key
    idempotency_key: str
    teacher: str
    input_digest: str
    version: str | None = None


@dataclass(frozen=True)
class Computed:
    """What was worked out for a question: the disclosed values, by which version, for how many images."""

    version: str
    images: int
    disclosed: Disclosed
    fingerprints: bytes


@dataclass(frozen=True)
class Answered:
    """A charged answer. ``disclosed`` is float32 N x K (NaN: not disclosed) or int64 N (labels)."""

    event: Event
    request_id: str
    disclosed: Disclosed
    is_replay: bool

    @property
    def remaining(self) -> int:
        """Images left after the charge."""
        return self.event.granted - self.event.spent


def find_answer(database: Database, question: Question) -> Answered | None:
    """The answer already charged under this idempotency key, None when there is none.

    Raises Refusal(idempotency_key_reused) when that key was used for another teacher or other images.
    """
    with database.reading() as connection:
        return _find_answer(connection, question)


def is_answered(database: Database, key: Key, idempotency_key: str) -> bool:
    """Whether anything was charged under this idempotency key."""
    with database.reading() as connection:
        wanted = (answers.c.key_id == key.id) & (answers.c.idempotency_key == idempotency_key)
        return connection.execute(select(answers.c.sequence).where(wanted)).first() is not None


def charge(database: Database, question: Question, computed: Computed, *, request_id: str) -> Answered:
    """Charge ``computed.images`` and keep the answer, all or nothing, exactly once per idempotency key.

    Raises Refusal: budget_exhausted (from what is durably spent), unauthenticated (the key was revoked or expired
    meanwhile), idempotency_key_reused, ledger_unavailable.
    """
    with database.writing() as connection:
        row = _lock_key(connection, question.key.id)
        happening = Happening(
            "answer",
            images=computed.images,
            teacher=question.teacher,
            version=computed.version,
            input_digest=question.input_digest,
            answer_digest=answer_digest(computed.disclosed),
            idempotency_key=question.idempotency_key,
        )
        if not _claim(connection, question, computed.disclosed, request_id):
            replay = _find_answer(connection, question)
            assert replay is not None, "the row that made the insert fail is there"
            return replay
        require_in_use(key_from_row(row))
        row = _spend(connection, row, computed.images)
        event = append_event(connection, row, happening)
        connection.execute(
            update(answers)
            .where(answers.c.key_id == row["id"], answers.c.idempotency_key == question.idempotency_key)
            .values(sequence=event.sequence)
        )
        connection.execute(
            insert(event_images).values(key_id=row["id"], sequence=event.sequence, fingerprints=computed.fingerprints)
        )
    return Answered(event, request_id, computed.disclosed, is_replay=False)


def _lock_key(connection: Connection, key_id: int) -> RowMapping:
    # SQLite ignores FOR UPDATE: there the whole transaction already holds the writer's lock.
    return connection.execute(select(keys).where(keys.c.id == key_id).with_for_update()).mappings().one()


def _claim(connection: Connection, question: Question, disclosed: Disclosed, request_id: str) -> bool:
    """Insert the row whose uniqueness decides; False when this idempotency key is already charged."""
    try:
        with connection.begin_nested():
            connection.execute(
                insert(answers).values(
                    key_id=question.key.id,
                    idempotency_key=question.idempotency_key,
                    teacher=question.teacher,
                    input_digest=question.input_digest,
                    request_id=request_id,
                    sequence=0,  # set in this same transaction, once the event has its number
                    disclosed_npy=encode_npy(disclosed),
                )
            )
    except IntegrityError:
        return False
    return True


def _spend(connection: Connection, row: RowMapping, images: int) -> RowMapping:
    """Add to spent by a conditional update that cannot pass the budget; return the row as it is now."""
    updated = connection.execute(
        update(keys)
        .where(keys.c.id == row["id"], keys.c.spent + images <= keys.c.granted)
        .values(spent=keys.c.spent + images)
    )
    if updated.rowcount != 1:
        raise budget_exhausted(granted=row["granted"], spent=row["spent"], asked=images)
    return _lock_key(connection, row["id"])


def budget_exhausted(*, granted: int, spent: int, asked: int) -> Refusal:
    """The refusal of a request that the durably spent count leaves no room for."""
    return Refusal(
        ErrorCode.BUDGET_EXHAUSTED,
        f"{asked} images asked for, {granted - spent} of {granted} remain; ask the owner for a grant",
        granted=granted,
        spent=spent,
        asked=asked,
    )


def _find_answer(connection: Connection, question: Question) -> Answered | None:
    row = (
        connection.execute(
            select(answers).where(
                answers.c.key_id == question.key.id, answers.c.idempotency_key == question.idempotency_key
            )
        )
        .mappings()
        .first()
    )
    if row is None:
        return None
    if (row["teacher"], row["input_digest"]) != (question.teacher, question.input_digest):
        raise Refusal(
            ErrorCode.IDEMPOTENCY_KEY_REUSED,
            f"Idempotency-Key {question.idempotency_key!r} was used for other images or another teacher; "
            "use a new one for every new request",
        )
    disclosed = decode_npy(row["disclosed_npy"])
    assert disclosed.dtype in (np.float32, np.int64)
    event = read_event(connection, question.key.id, row["sequence"])
    if question.version not in (None, event.version):
        raise Refusal(
            ErrorCode.IDEMPOTENCY_KEY_REUSED,
            f"Idempotency-Key {question.idempotency_key!r} was answered by version {event.version!r}, not "
            f"{question.version!r}; use a new one for every new request",
        )
    return Answered(event, row["request_id"], disclosed, is_replay=True)  # type: ignore[arg-type]  # dtype checked
