"""Appending to a key's chain and reading it back; always inside the caller's transaction."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, RowMapping, bindparam, insert, literal, select

from shared.wire.contracts import EVENT_FORMAT, Event, EventKind, EventSignature, Receipt
from shared.wire.receipts import GENESIS_HASH, disclosure_digest, event_hash
from teacher_server.ledger.chain.signing import Signer, SigningKeyUnusable
from teacher_server.ledger.clock import now
from teacher_server.ledger.tables import events, signing_keys

_COLUMNS = [events.c[name] for name in (*Event.model_fields, *EventSignature.model_fields)]
_CURRENT_KEY = select(signing_keys.c.fingerprint).where(signing_keys.c.retired_at.is_(None)).scalar_subquery()
# Built once: building a statement costs more than a small database takes to run it.
_HEAD = (
    select(events.c.sequence, events.c.hash, events.c.at, _CURRENT_KEY)
    .where(events.c.key_id == bindparam("key_id"))
    .order_by(events.c.sequence.desc())
    .limit(1)
)
_NO_HEAD = select(literal(0), literal(GENESIS_HASH), literal(""), _CURRENT_KEY)
_APPEND = insert(events)
_READ = select(*_COLUMNS).where(events.c.key_id == bindparam("key_id"), events.c.sequence == bindparam("sequence"))


@dataclass(frozen=True)
class Happening:
    """What an event records, before it has a place in the chain."""

    kind: EventKind
    images: int = 0
    teacher: str = ""
    version: str = ""
    teacher_digest: str = ""
    input_digest: str = ""
    answer_digest: str = ""
    idempotency_key: str = ""
    detail: str = ""


@dataclass(frozen=True)
class SignedEvent:
    """An event as it stands in the ledger; unsigned (empty strings) only in format 1."""

    event: Event
    signing_key: str
    signature: str

    @property
    def receipt(self) -> Receipt | None:
        """What an answer's buyer is given; None where the event is not signed."""
        if not self.signature:
            return None
        return Receipt(event=self.event, signing_key=self.signing_key, signature=self.signature)


@dataclass(frozen=True)
class Head:
    """The end of a key's chain, and the fingerprint of the key that the next event is signed with."""

    sequence: int
    hash: str
    at: str
    signing_key: str


def read_head(connection: Connection, key_id: int) -> Head:
    """Where the next event of a key goes. Raises SigningKeyUnusable when the ledger has no signing key."""
    last = connection.execute(_HEAD, {"key_id": key_id}).first()
    sequence, last_hash, at, signing_key = last or connection.execute(_NO_HEAD).one()
    if signing_key is None:
        raise SigningKeyUnusable("the ledger has no signing key yet; run `teacher ledger migrate`")
    return Head(sequence, last_hash, at, signing_key)


def append_event(
    connection: Connection, signer: Signer, key: Mapping[str, Any] | RowMapping, happening: Happening
) -> SignedEvent:
    """Append to the chain of ``key`` (its row, as read or written in this same writer's transaction), and sign."""
    return append_after(read_head(connection, key["id"]), connection, signer, key, happening)


def append_after(
    head: Head, connection: Connection, signer: Signer, key: Mapping[str, Any] | RowMapping, happening: Happening
) -> SignedEvent:
    """As ``append_event``, where this same transaction has read the head already."""
    unhashed = Event(
        format=EVENT_FORMAT,
        sequence=head.sequence + 1,
        previous_hash=head.hash,
        kind=happening.kind,
        # A clock that was set back must not move an event before the one it follows: windows are read from times.
        at=max(now(), head.at),
        key_name=key["name"],
        teacher=happening.teacher,
        version=happening.version,
        teacher_digest=happening.teacher_digest,
        images=happening.images,
        input_digest=happening.input_digest,
        answer_digest=happening.answer_digest,
        disclosure=key["disclosure"],
        disclosure_digest=disclosure_digest(key["disclosure"]),
        idempotency_key=happening.idempotency_key,
        detail=happening.detail,
        spent=key["spent"],
        granted=key["granted"],
        hash=GENESIS_HASH,
    )
    event = unhashed.model_copy(update={"hash": event_hash(unhashed)})
    signed = SignedEvent(event, head.signing_key, signer.sign(event, head.signing_key))
    signature = {"signing_key": signed.signing_key, "signature": signed.signature}
    connection.execute(_APPEND, {"key_id": key["id"]} | event.model_dump() | signature)
    return signed


def read_event(connection: Connection, key_id: int, sequence: int) -> SignedEvent:
    """One event that is known to be there."""
    row = connection.execute(_READ, {"key_id": key_id, "sequence": sequence}).one()
    return _signed(row._mapping)


def read_events(connection: Connection, key_id: int, *, after: int, limit: int) -> list[SignedEvent]:
    """Events with a sequence greater than ``after``, oldest first, at most ``limit``."""
    rows = connection.execute(
        select(*_COLUMNS)
        .where(events.c.key_id == key_id, events.c.sequence > after)
        .order_by(events.c.sequence)
        .limit(limit)
    )
    return [_signed(row._mapping) for row in rows]


def last_teacher_digest(connection: Connection, teacher: str, version: str) -> str:
    """The digest of the bundle that last answered as this version of this teacher; empty when none did."""
    return (
        connection.execute(
            select(events.c.teacher_digest)
            .where(events.c.teacher == teacher, events.c.version == version, events.c.teacher_digest != "")
            .order_by(events.c.id.desc())
            .limit(1)
        ).scalar()
        or ""
    )


def _signed(row: RowMapping) -> SignedEvent:
    return SignedEvent(Event.model_validate(dict(row)), row["signing_key"], row["signature"])
