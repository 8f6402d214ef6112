"""What a client holds, against the chain it is from: the only thing that an owner cannot rewrite."""

from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from shared.wire.contracts import Event, Receipt
from shared.wire.signatures import receipt_faults
from teacher_server.ledger.audit.audit_lines import event_row, read_lines
from teacher_server.ledger.audit.chain_walk import ChainWalk
from teacher_server.ledger.audit.faults import Fault
from teacher_server.ledger.audit.key_ring import KeyRing


class HeldReceipts:
    """Receipts of a file, each compared with the event that stands in its place."""

    def __init__(self, file: Path | None) -> None:
        """Raises OperatorError when the file cannot be read."""
        self._lines = list(read_lines(file)) if file else []
        self._hashes: dict[tuple[str, int], set[str]] = defaultdict(set)
        self._seen: set[tuple[str, int]] = set()

    def judge(self, ring: KeyRing) -> list[Fault]:
        """Keep those that this ledger signed; what is wrong with the others."""
        faults: list[Fault] = []
        for number, content in self._lines:
            if number == 1 and isinstance(content, dict) and "export" in content:
                continue
            row = event_row(content)
            receipt = _parse(row)
            if row is None or receipt is None:
                faults.append(Fault("", None, f"line {number} of the receipts is no receipt"))
                continue
            faults += self._keep(receipt, ring)
        return faults

    def watch(self, event: Event) -> list[Fault]:
        """Compare an event of the chain."""
        place = (event.key_name, event.sequence)
        if place not in self._hashes:
            return []
        self._seen.add(place)
        if event.hash in self._hashes[place]:
            return []
        what = "is not the event that a client holds the receipt of: the chain was rewritten, or forked by a backup"
        return [Fault(event.key_name, event.sequence, what)]

    def missed(self, walks: Mapping[str, ChainWalk]) -> list[Fault]:
        """Receipts of keys walked whose place in the chain is empty, or that have no chain at all."""
        faults = []
        for key_name, sequence in sorted(self._hashes.keys() - self._seen):
            walk = walks.get(key_name)
            if walk is None:
                what = "a client holds its receipt, but the ledger has no such key"
            elif sequence > walk.sequence:
                what = (
                    f"a client holds its receipt, but the chain ends at event {walk.sequence}: its tail was cut off"
                )
            else:
                what = "a client holds its receipt, but it is not in the chain"
            faults.append(Fault(key_name, sequence, what))
        return faults

    def only_of(self, key_name: str) -> int:
        """Leave out those of other keys; how many they were."""
        others = [place for place in self._hashes if place[0] != key_name]
        for place in others:
            del self._hashes[place]
        return len(others)

    @property
    def count(self) -> int:
        """How many genuine ones there are."""
        return len(self._hashes)

    def _keep(self, receipt: Receipt, ring: KeyRing) -> list[Fault]:
        event = receipt.event
        trusted = {name: key.public_key for name, key in ring.keys.items() if name in ring.pinned}
        found = receipt_faults(receipt, trusted)
        if not found:
            hashes = self._hashes[event.key_name, event.sequence]
            hashes.add(event.hash)
            if len(hashes) > 1:
                found = ["two receipts of one event that differ, both signed by the ledger: it told two histories"]
        return [Fault(event.key_name, event.sequence, what) for what in found]


def _parse(row: dict[str, Any] | None) -> Receipt | None:
    try:
        event = Event.model_validate(row, strict=True)
        assert row is not None
        content = {"event": event, "signing_key": row["signing_key"], "signature": row["signature"]}
        return Receipt.model_validate(content, strict=True)
    except (ValidationError, TypeError):
        return None
