"""Does the ledger hold together? Every chain walked against its counters, its answers and its signing keys.

Read in short transactions of a few hundred rows, so that nobody who writes has to wait.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Connection, func, select

from shared.counting import counted
from shared.wire.contracts import Event
from teacher_server.ledger.audit.answer_rows import answer_faults, surplus_faults
from teacher_server.ledger.audit.chain_walk import ChainWalk
from teacher_server.ledger.audit.faults import FAULTS_MAX, Fault, shown
from teacher_server.ledger.audit.key_ring import KeyRing, read_key_ring
from teacher_server.ledger.audit.raw_rows import (
    ANSWERS,
    EVENT_IMAGES,
    EVENTS,
    KEYS,
    SIGNING_KEYS,
    Unreadable,
    read_rows,
    read_rows_one_by_one,
)
from teacher_server.ledger.databases.database import Database
from teacher_server.ledger.tables import ledger

PAGE_EVENTS = 200
Watch = Callable[[Event], list[Fault]]
Pause = Callable[[], None]


@dataclass
class Verdict:
    """What the walk of one key found."""

    key_id: int
    walk: ChainWalk
    faults: list[Fault] = field(default_factory=list)


def no_watch(_: Event) -> list[Fault]:
    """Nothing more is asked of an event."""
    return []


def verify_around(
    database: Database, *, pin: str | None = None, is_whole: bool = True
) -> tuple[KeyRing, list[Fault]]:
    """The signing keys, the ledger's name; and, where ``is_whole``, all rows for such as belong to no key."""
    with database.reading() as connection:
        ring = _key_ring(connection, pin)
        faults = [Fault("", None, what) for what in ring.faults]
        names = connection.execute(select(func.count()).select_from(ledger)).scalar_one()
        if names != 1:
            faults.append(Fault("", None, f"its table 'ledger', with its name, has {names} rows; allowed is one"))
        for table in (EVENTS, ANSWERS, EVENT_IMAGES) if is_whole else ():
            strangers = select(table.c.key_id).where(table.c.key_id.not_in(select(KEYS.c.id))).distinct()
            try:
                found = [row["key_id"] for row in read_rows(connection, strangers.limit(FAULTS_MAX))]
            except Unreadable as error:
                found = [str(error)]
            for key_id in found:
                faults.append(Fault("", None, f"{table.name} has rows of key {shown(key_id)}, which does not exist"))
    return ring, faults


def list_key_ids(database: Database) -> tuple[dict[int, object], list[Fault]]:
    """Id and name of every key, oldest first."""
    statement = select(KEYS).order_by(KEYS.c.id)
    with database.reading() as connection:
        try:
            return {row["id"]: row["name"] for row in read_rows(connection, statement)}, []
        except Unreadable:
            found, faults = {}, []
            for key_id, row in read_rows_one_by_one(connection, KEYS, statement):
                if isinstance(row, Unreadable):
                    faults.append(Fault(f"number {key_id}", None, f"its row cannot be read: {row}"))
                else:
                    found[key_id] = row["name"]
            return found, faults


def verify_key(
    database: Database,
    key_id: int,
    walk: ChainWalk,
    *,
    pin: str | None = None,
    watch: Watch = no_watch,
    pause: Pause = lambda: None,
) -> Verdict:
    """Walk a key's chain from where ``walk`` ends, then compare it with all that has to agree with it.

    ``walk`` is left as it is. ``pause`` is called between two transactions. Raises Refusal(ledger_unavailable).
    """
    verdict = Verdict(key_id, walk.copy())
    is_resumed = walk.events > 0
    while True:
        with database.reading() as connection:
            # Read with each page: a rotation may come in between.
            ring = _key_ring(connection, pin)
            if is_resumed and not _is_still_there(connection, verdict):
                return verdict
            rows = _page(connection, verdict, is_first=verdict.walk.events == 0)
            _take_page(connection, verdict, rows, ring, watch)
            if len(rows) < PAGE_EVENTS or len(verdict.faults) >= FAULTS_MAX:
                if len(verdict.faults) < FAULTS_MAX:
                    verdict.faults += _closing_faults(connection, verdict)
                else:
                    verdict.faults.append(Fault(walk.key_name, None, f"more than {FAULTS_MAX} faults"))
                return verdict
        is_resumed = False
        pause()


def _key_ring(connection: Connection, pin: str | None) -> KeyRing:
    try:
        return read_key_ring(read_rows(connection, select(SIGNING_KEYS)), pin)
    except Unreadable as error:
        return KeyRing(faults=(f"signing keys cannot be read: {error}",))


def _is_still_there(connection: Connection, verdict: Verdict) -> bool:
    """Whether the event that the walk ended with is where it was; else a fault is noted."""
    walk = verdict.walk
    own = (EVENTS.c.key_id == verdict.key_id) & (EVENTS.c.sequence == walk.sequence)
    try:
        found = [row["hash"] for row in read_rows(connection, select(EVENTS.c.hash).where(own))]
    except Unreadable:
        found = []
    if found == [walk.hash]:
        return True
    what = "was there at the last look, and is not any more" if not found else "is not what it was at the last look"
    verdict.faults.append(Fault(walk.key_name, walk.sequence, what))
    return False


def _page(connection: Connection, verdict: Verdict, *, is_first: bool) -> list[dict[str, Any] | Unreadable]:
    statement = select(EVENTS).where(EVENTS.c.key_id == verdict.key_id)
    if not is_first:
        statement = statement.where(EVENTS.c.sequence > verdict.walk.sequence)
    statement = statement.order_by(EVENTS.c.sequence).limit(PAGE_EVENTS)
    try:
        return list(read_rows(connection, statement))
    except Unreadable:
        return [row for _, row in read_rows_one_by_one(connection, EVENTS, statement)]


def _take_page(
    connection: Connection,
    verdict: Verdict,
    rows: list[dict[str, Any] | Unreadable],
    ring: KeyRing,
    watch: Watch,
) -> None:
    charged: list[Event] = []
    for row in rows:
        if isinstance(row, Unreadable):
            verdict.walk.skip()
            verdict.faults.append(Fault(verdict.walk.key_name, verdict.walk.sequence, f"cannot be read: {row}"))
            continue
        event, faults = verdict.walk.take(row, ring)
        verdict.faults += faults
        if event is not None:
            verdict.faults += watch(event)
            if event.kind == "answer":
                charged.append(event)
    verdict.faults += answer_faults(connection, verdict.key_id, verdict.walk.key_name, charged)


def _closing_faults(connection: Connection, verdict: Verdict) -> Iterator[Fault]:
    """What only shows at the end of a chain: counters, rows too many, and the key's own row."""
    walk = verdict.walk
    try:
        rows = read_rows(connection, select(KEYS).where(KEYS.c.id == verdict.key_id))
    except Unreadable as error:
        yield Fault(walk.key_name, None, f"its row cannot be read: {error}")
        return
    if not rows:
        yield Fault(walk.key_name, None, "its row is gone")
        return
    yield from walk.row_faults(rows[0])
    if walk.events == 0:
        return
    yield from surplus_faults(connection, verdict.key_id, walk)
    yield from _sum_faults(connection, verdict)


def _sum_faults(connection: Connection, verdict: Verdict) -> Iterator[Fault]:
    """Added up by the database, all rows anew: also what an earlier look has walked is as it was."""
    walk = verdict.walk
    per_kind = select(EVENTS.c.kind, func.count().label("rows"), func.sum(EVENTS.c.images).label("images"))
    try:
        rows = read_rows(connection, per_kind.where(EVENTS.c.key_id == verdict.key_id).group_by(EVENTS.c.kind))
    except Unreadable as error:
        yield Fault(walk.key_name, None, f"its events cannot be added up: {error}")
        return
    sums = {row["kind"]: row["images"] for row in rows}
    found = (sums.get("answer", 0), sums.get("create", 0) + sums.get("grant", 0))
    if found != (walk.spent, walk.granted):
        said, walked = f"{shown(found[0])} spent of {shown(found[1])}", f"{walk.spent} of {walk.granted}"
        yield Fault(walk.key_name, None, f"its rows add up to {said}, walked were {walked}")
    if (count := sum(row["rows"] for row in rows)) != walk.events:
        yield Fault(walk.key_name, None, f"has {counted(count, 'row')} of events, walked were {walk.events}")
