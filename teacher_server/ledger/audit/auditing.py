"""`teacher audit verify`: a whole ledger, one key of it, or an exported history, and what clients hold beside it."""

from dataclasses import dataclass, field
from pathlib import Path

from shared.counting import counted
from teacher_server.ledger.audit.audit_lines import event_row, parse_header, read_lines
from teacher_server.ledger.audit.chain_walk import ChainWalk
from teacher_server.ledger.audit.faults import FAULTS_MAX, Fault, shown
from teacher_server.ledger.audit.held_receipts import HeldReceipts
from teacher_server.ledger.audit.key_ring import KeyRing, read_key_ring
from teacher_server.ledger.audit.verification import list_key_ids, verify_around, verify_key
from teacher_server.ledger.databases.database import Database


@dataclass(frozen=True)
class AuditReport:
    """What an audit found; sound when it found no fault. ``notes`` are what it cannot vouch for."""

    ring: KeyRing
    walks: list[ChainWalk]
    faults: list[Fault]
    notes: list[str] = field(default_factory=list)

    @property
    def is_sound(self) -> bool:
        """Whether nothing was found."""
        return not self.faults


def audit_ledger(
    database: Database, *, key_name: str | None = None, pin: str | None = None, receipts: Path | None = None
) -> AuditReport:
    """Walk every chain, or that of one key. Raises Refusal(ledger_unavailable), OperatorError for the receipts."""
    held = HeldReceipts(receipts)
    ring, faults = verify_around(database, pin=pin)
    key_ids, unreadable = list_key_ids(database)
    faults += held.judge(ring)
    notes = []
    if key_name is not None:
        unreadable = []
        key_ids = {key_id: name for key_id, name in key_ids.items() if name == key_name}
        if not key_ids:
            faults.append(Fault(key_name, None, "there is no such key"))
        notes += _others(held.only_of(key_name))
    verdicts = [
        verify_key(database, key_id, ChainWalk(shown(name)), pin=pin, watch=held.watch)
        for key_id, name in key_ids.items()
    ]
    walks = [verdict.walk for verdict in verdicts]
    faults += unreadable + [fault for verdict in verdicts for fault in verdict.faults]
    faults += held.missed({walk.key_name: walk for walk in walks})
    return AuditReport(ring, walks, faults, notes + _notes(walks, held, has_receipts=receipts is not None))


def audit_export(file: Path, *, pin: str | None = None, receipts: Path | None = None) -> AuditReport:
    """Walk the history in a file that `teacher audit export` wrote. Raises OperatorError when it is none."""
    lines = read_lines(file)
    header = parse_header(file, next(lines, (1, None))[1])
    ring = read_key_ring(header.signing_keys, pin)
    held = HeldReceipts(receipts)
    walk = ChainWalk(shown(header.key_name))
    faults = [Fault("", None, what) for what in ring.faults] + held.judge(ring)
    notes = _others(held.only_of(header.key_name))
    for number, content in lines:
        row = event_row(content)
        if row is None:
            walk.skip()
            faults.append(Fault(walk.key_name, walk.sequence, f"line {number} of {file} is no event"))
        else:
            event, found = walk.take(row, ring)
            faults += found + (held.watch(event) if event else [])
        if len(faults) > FAULTS_MAX:
            faults.append(Fault(walk.key_name, None, f"more than {FAULTS_MAX} faults"))
            break
    faults += walk.counter_faults(spent=header.spent, granted=header.granted)
    if (walk.events, walk.hash) != (header.events, header.last_hash):
        what = (
            f"the export's first line says {counted(header.events, 'event')}, the last with hash "
            f"{shown(header.last_hash)}; there are {walk.events}, the last with hash {shown(walk.hash)}"
        )
        faults.append(Fault(walk.key_name, None, what))
    faults += held.missed({walk.key_name: walk})
    return AuditReport(ring, [walk], faults, notes + _notes([walk], held, has_receipts=receipts is not None))


def _others(count: int) -> list[str]:
    return [f"not compared, as of other keys: {counted(count, 'receipt')}"] if count else []


def _notes(walks: list[ChainWalk], held: HeldReceipts, *, has_receipts: bool) -> list[str]:
    notes = []
    for walk in walks:
        if walk.unsigned:
            notes.append(
                f"key {walk.key_name}: {counted(walk.unsigned, 'event')} of format 1, from before the ledger signed"
            )
        if walk.unpinned:
            notes.append(
                f"key {walk.key_name}: its last {walk.unpinned} signed events are by keys before the pinned one, "
                "which does not vouch for them"
            )
    if has_receipts:
        notes.append(f"compared with the chain: {counted(held.count, 'receipt')}")
    return notes
