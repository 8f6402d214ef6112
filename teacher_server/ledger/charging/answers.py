"""Answers that are charged already: the record is kept for ever, the stored values until they expire."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Connection, func, select, update

from shared.wire.contracts import Event
from shared.wire.error_codes import ErrorCode
from shared.wire.images import decode_npy
from teacher_server.errors import Refusal
from teacher_server.ledger.chain.events import SignedEvent, read_event
from teacher_server.ledger.databases.database import Database
from teacher_server.ledger.keys.issuing import Key
from teacher_server.ledger.keys.limits import Standing, read_present_standing
from teacher_server.ledger.tables import answers

_EXPIRED_AT_ONCE_MAX = 1000  # rows of one transaction, so that charges need not wait long for it
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
class Answered:
    """A charged answer. ``disclosed`` is float32 N x K (NaN: not disclosed) or int64 N (labels).

    ``is_recomputed``: the stored values had expired; these may differ from them by 1e-5. ``standing`` is what the
    key's limits leave it now, also where it was charged long ago.
    """

    signed: SignedEvent
    request_id: str
    disclosed: Disclosed
    is_replay: bool
    standing: Standing
    is_recomputed: bool = False

    @property
    def event(self) -> Event:
        """What it was charged by."""
        return self.signed.event

    @property
    def remaining(self) -> int:
        """Images left after the charge."""
        return self.event.granted - self.event.spent


@dataclass(frozen=True)
class Expired:
    """A charged answer whose stored values have expired."""

    signed: SignedEvent
    request_id: str
    standing: Standing

    @property
    def event(self) -> Event:
        """What it was charged by."""
        return self.signed.event

    def recomputed(self, disclosed: Disclosed) -> Answered:
        """The same answer with values computed again."""
        return Answered(
            self.signed, self.request_id, disclosed, is_replay=True, standing=self.standing, is_recomputed=True
        )


def find_answer(database: Database, question: Question) -> Answered | Expired | None:
    """What was charged under this idempotency key, None when nothing was.

    Raises Refusal(idempotency_key_reused) when that key was used for another teacher or other images.
    """
    with database.reading() as connection:
        return look_up(connection, question)


def is_answered(database: Database, key: Key, idempotency_key: str) -> bool:
    """Whether anything was charged under this idempotency key."""
    with database.reading() as connection:
        wanted = (answers.c.key_id == key.id) & (answers.c.idempotency_key == idempotency_key)
        return connection.execute(select(answers.c.sequence).where(wanted)).first() is not None


def look_up(connection: Connection, question: Question) -> Answered | Expired | None:
    """As ``find_answer``, inside a transaction."""
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
    signed = read_event(connection, question.key.id, row["sequence"])
    if question.version not in (None, signed.event.version):
        raise Refusal(
            ErrorCode.IDEMPOTENCY_KEY_REUSED,
            f"Idempotency-Key {question.idempotency_key!r} was answered by version {signed.event.version!r}, not "
            f"{question.version!r}; use a new one for every new request",
        )
    standing = read_present_standing(connection, question.key)
    if not row["disclosed_npy"]:
        return Expired(signed, row["request_id"], standing)
    disclosed = decode_npy(row["disclosed_npy"])
    assert disclosed.dtype in (np.float32, np.int64)
    return Answered(signed, row["request_id"], disclosed, is_replay=True, standing=standing)  # type: ignore[arg-type]  # dtype checked


def expire_bodies(database: Database, *, kept_s: float, bytes_max: int) -> int:
    """Empty stored values older than ``kept_s`` seconds, and the oldest while all have more than ``bytes_max`` bytes.

    The rows stay, and with them the promise of one charge. Returns how many were emptied.
    Raises Refusal(ledger_unavailable).
    """
    oldest_kept = (datetime.now(UTC) - timedelta(seconds=kept_s)).isoformat(timespec="microseconds")
    emptied = 0
    while found := _expirable(database, oldest_kept, bytes_max):

        def work(connection: Connection, found: list[tuple[int, str]] = found) -> None:
            for key_id, idempotency_key in found:
                connection.execute(
                    update(answers)
                    .where(answers.c.key_id == key_id, answers.c.idempotency_key == idempotency_key)
                    .values(disclosed_npy=b"", body_bytes=0)
                )

        database.write(work)
        emptied += len(found)
    return emptied


def _expirable(database: Database, oldest_kept: str, bytes_max: int) -> list[tuple[int, str]]:
    """The next rows to empty, oldest first: too old, or too many bytes before them."""
    stored = select(answers.c.key_id, answers.c.idempotency_key, answers.c.answered_at, answers.c.body_bytes).where(
        answers.c.body_bytes > 0
    )
    with database.reading() as connection:
        surplus = (
            connection.execute(select(func.coalesce(func.sum(answers.c.body_bytes), 0))).scalar_one() - bytes_max
        )
        found = []
        for row in connection.execute(stored.order_by(answers.c.answered_at).limit(_EXPIRED_AT_ONCE_MAX)):
            if row.answered_at >= oldest_kept and surplus <= 0:
                break
            found.append((row.key_id, row.idempotency_key))
            surplus -= row.body_bytes
    return found
