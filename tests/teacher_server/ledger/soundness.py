"""What must be true of a ledger at every moment, whatever was killed, refused or raced."""

from collections import Counter
from dataclasses import dataclass

from sqlalchemy import Connection, select

from shared.wire.contracts import Event
from shared.wire.images import answer_digest, decode_npy
from shared.wire.receipts import chain_faults
from shared.wire.signatures import is_signed_by
from teacher_server.ledger.databases.database import Database
from teacher_server.ledger.tables import answers, event_images, events, keys, signing_keys


@dataclass(frozen=True)
class Counted:
    """What one key's rows add up to: its answered requests and their images, by idempotency key."""

    events: list[Event]
    images: dict[str, int]

    @property
    def spent(self) -> int:
        return sum(self.images.values())


def require_sound(database: Database, name: str | None = None) -> dict[str, Counted]:
    """Check every key, or one, at one moment; returns what was found by the key's name.

    0 <= spent <= granted; spent is the sum of the events and of what answers were given for, one row each; granted is
    the sum of creation and grants; the chain verifies, every event of format 2 is signed by a key of this ledger, and
    time never goes backwards in it.
    """
    with database.reading() as connection:
        public = {row.fingerprint: row.public_key for row in connection.execute(select(signing_keys))}
        rows = connection.execute(select(keys.c.id, keys.c.name, keys.c.granted, keys.c.spent)).all()
        return {
            row.name: _require_sound(connection, row.id, row.name, (row.spent, row.granted), public)
            for row in rows
            if name in (None, row.name)
        }


def _require_sound(
    connection: Connection, key_id: int, name: str, counters: tuple[int, int], public: dict[str, str]
) -> Counted:
    spent, granted = counters
    rows = connection.execute(select(events).where(events.c.key_id == key_id).order_by(events.c.sequence)).mappings()
    chain = []
    for row in rows:
        event = Event.model_validate(dict(row))
        chain.append(event)
        if event.format > 1:
            signed = is_signed_by(public[row["signing_key"]], event, row["signature"])
            assert signed, f"event {event.sequence} of {name} is not signed"
    assert chain_faults(chain) == [], name
    assert [event.kind for event in chain].count("create") == 1, name
    assert all(event.key_name == name for event in chain), name
    assert sum(event.images for event in chain if event.kind in ("create", "grant")) == granted, name
    assert 0 <= spent <= granted, name
    times = [event.at for event in chain]
    assert times == sorted(times), f"time goes backwards in the chain of {name}"
    images = _require_answers(connection, key_id, chain)
    assert sum(images.values()) == spent == chain[-1].spent, name
    return Counted(chain, images)


def _require_answers(connection: Connection, key_id: int, chain: list[Event]) -> dict[str, int]:
    """One event, one stored answer and one row of fingerprints for everything that was charged."""
    charged = {event.sequence: event for event in chain if event.kind == "answer"}
    asked = Counter(event.idempotency_key for event in charged.values())
    assert all(times == 1 for times in asked.values()), f"charged more than once: {asked.most_common(3)}"
    stored = connection.execute(select(answers).where(answers.c.key_id == key_id)).all()
    assert {row.sequence: row.idempotency_key for row in stored} == {
        sequence: event.idempotency_key for sequence, event in charged.items()
    }
    assert len(stored) == len(charged)
    for row in stored:
        event = charged[row.sequence]
        assert (row.teacher, row.input_digest) == (event.teacher, event.input_digest)
        if row.disclosed_npy:
            values = decode_npy(row.disclosed_npy)
            assert len(values) == event.images
            assert answer_digest(values) == event.answer_digest  # type: ignore[arg-type]  # float32 or int64
    wanted = select(event_images.c.sequence).where(event_images.c.key_id == key_id)
    assert sorted(connection.execute(wanted).scalars()) == sorted(charged)
    return {event.idempotency_key: event.images for event in charged.values()}
