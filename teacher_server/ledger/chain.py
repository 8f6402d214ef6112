"""Appending to a key's chain and reading it back; always inside the caller's transaction."""

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal

from sqlalchemy import Connection, RowMapping, insert, select

from shared.wire.contracts import Event
from shared.wire.receipts import GENESIS_HASH, event_hash
from teacher_server.ledger.tables import events

_COLUMNS = [events.c[name] for name in Event.model_fields]


@dataclass(frozen=True)
class Happening:
    """What an event records, before it has a place in the chain."""

    kind: Literal["create", "grant", "revoke", "answer"]
    images: int = 0
    teacher: str = ""
    version: str = ""
    input_digest: str = ""
    answer_digest: str = ""
    idempotency_key: str = ""


def now() -> str:
    """This moment in UTC, RFC 3339 with microseconds; sorts as text."""
    return datetime.now(UTC).isoformat(timespec="microseconds")


def append_event(connection: Connection, key: RowMapping, happening: Happening) -> Event:
    """Append to the chain of ``key`` (its row, as read or written in this same writer's transaction)."""
    head = connection.execute(
        select(events.c.sequence, events.c.hash)
        .where(events.c.key_id == key["id"])
        .order_by(events.c.sequence.desc())
        .limit(1)
    ).first()
    event = Event(
        sequence=head.sequence + 1 if head else 1,
        previous_hash=head.hash if head else GENESIS_HASH,
        kind=happening.kind,
        at=now(),
        key_name=key["name"],
        teacher=happening.teacher,
        version=happening.version,
        images=happening.images,
        input_digest=happening.input_digest,
        answer_digest=happening.answer_digest,
        disclosure=key["disclosure"],
        idempotency_key=happening.idempotency_key,
        spent=key["spent"],
        granted=key["granted"],
        hash=GENESIS_HASH,
    )
    event = event.model_copy(update={"hash": event_hash(event)})
    connection.execute(insert(events).values(key_id=key["id"], **event.model_dump()))
    return event


def read_event(connection: Connection, key_id: int, sequence: int) -> Event:
    """One event that is known to be there."""
    row = connection.execute(select(*_COLUMNS).where(events.c.key_id == key_id, events.c.sequence == sequence)).one()
    return Event.model_validate(dict(row._mapping))


def read_events(connection: Connection, key_id: int, *, after: int, limit: int) -> list[Event]:
    """Events with a sequence greater than ``after``, oldest first, at most ``limit``."""
    rows = connection.execute(
        select(*_COLUMNS)
        .where(events.c.key_id == key_id, events.c.sequence > after)
        .order_by(events.c.sequence)
        .limit(limit)
    )
    return [Event.model_validate(dict(row._mapping)) for row in rows]
