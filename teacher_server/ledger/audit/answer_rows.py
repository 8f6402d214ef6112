"""What lies beside a chain, audited: an answer for every charge, a charge for every answer."""

from collections.abc import Iterator, Mapping
from typing import Any

from sqlalchemy import Connection, func, select

from shared.wire.contracts import Event
from shared.wire.images import InvalidImages, answer_digest, decode_npy
from teacher_server.ledger.audit.chain_walk import ChainWalk
from teacher_server.ledger.audit.faults import Fault, shown
from teacher_server.ledger.audit.raw_rows import ANSWERS, EVENT_IMAGES, EVENTS, Unreadable, read_rows

_SURPLUS_SHOWN = 10


def answer_faults(connection: Connection, key_id: int, name: str, charged: list[Event]) -> Iterator[Fault]:
    """Each of these charges of a key has its row of answers, which says the same, and its images' fingerprints."""
    if not charged:
        return
    names = [event.idempotency_key for event in charged]
    columns = [
        ANSWERS.c[column] for column in ("idempotency_key", "teacher", "input_digest", "sequence", "body_bytes")
    ]
    wanted = (ANSWERS.c.key_id == key_id) & ANSWERS.c.idempotency_key.in_(names)
    try:
        stored = {row["idempotency_key"]: row for row in read_rows(connection, select(*columns).where(wanted))}
    except Unreadable as error:
        yield Fault(name, charged[0].sequence, f"the row of this answer, or of one after it, cannot be read: {error}")
        return
    sequences = [event.sequence for event in charged]
    imaged = select(EVENT_IMAGES.c.sequence).where(
        EVENT_IMAGES.c.key_id == key_id,
        EVENT_IMAGES.c.sequence.in_(sequences),
        func.length(EVENT_IMAGES.c.fingerprints) > 0,
    )
    fingerprinted = set(connection.execute(imaged).scalars())
    for event in charged:
        row = stored.get(event.idempotency_key)
        if row is None:
            yield Fault(name, event.sequence, f"the row of its answer ({shown(event.idempotency_key)}) is missing")
        else:
            for what in _differences(connection, key_id, event, row):
                yield Fault(name, event.sequence, what)
        if event.sequence not in fingerprinted:
            yield Fault(name, event.sequence, "its images are missing in event_images")


def _differences(connection: Connection, key_id: int, event: Event, row: Mapping[str, Any]) -> Iterator[str]:
    for column, own in (
        ("sequence", event.sequence),
        ("teacher", event.teacher),
        ("input_digest", event.input_digest),
    ):
        if row[column] != own:
            yield f"the row of its answer says {column} {shown(row[column])}, the event {shown(own)}"
    own_row = (ANSWERS.c.key_id == key_id) & (ANSWERS.c.idempotency_key == event.idempotency_key)
    try:
        body = read_rows(connection, select(ANSWERS.c.disclosed_npy).where(own_row))[0]["disclosed_npy"]
    except Unreadable:
        body = None
    if not isinstance(body, bytes):
        yield "the stored answer cannot be read"
    elif len(body) != row["body_bytes"]:
        yield f"the stored answer has {len(body)} bytes, its row says {shown(row['body_bytes'])}"
    elif body and not _is_answer(body, event):
        yield "the stored answer was edited: it does not have the event's answer digest"


def _is_answer(body: bytes, event: Event) -> bool:
    try:
        values = decode_npy(body)
        return len(values) == event.images and answer_digest(values) == event.answer_digest  # type: ignore[arg-type]  # of any dtype
    except (InvalidImages, TypeError, ValueError):
        return False


def surplus_faults(connection: Connection, key_id: int, walk: ChainWalk) -> Iterator[Fault]:
    """Rows of answers and event_images that no charge of the chain walked has made."""
    charged = select(EVENTS.c.sequence).where(EVENTS.c.key_id == key_id, EVENTS.c.kind == "answer")
    for table in (ANSWERS, EVENT_IMAGES):
        own = select(table.c.sequence).where(table.c.key_id == key_id)
        found = connection.execute(own.with_only_columns(func.count())).scalar_one()
        if found <= walk.answers:
            continue  # too few were missed at their events
        surplus = (
            connection.execute(own.where(table.c.sequence.not_in(charged)).limit(_SURPLUS_SHOWN)).scalars().all()
        )
        for sequence in surplus:
            place = sequence if type(sequence) is int else None
            yield Fault(walk.key_name, place, f"{table.name} has a row for it, but no such charge is in the chain")
        if not surplus:
            yield Fault(walk.key_name, None, f"{table.name} has {found} rows, for {walk.answers} charges")
