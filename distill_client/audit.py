"""What was spent, proved: the run's own rows against the teacher's log for this key."""

from collections.abc import Sequence
from dataclasses import dataclass

from distill_client.errors import RunStoreError
from distill_client.run_folder import RunFolder
from distill_client.teachers.protocol import Teacher, key_identity
from distill_client.teachers.store import Purchase
from shared.wire.contracts import Event, Usage
from shared.wire.receipts import chain_faults

_FAULTS_SHOWN = 10
_LOOKS_MAX = 10


@dataclass(frozen=True)
class Audit:
    """Three counts from three places (own store, the key's counter, the log's rows), and every disagreement."""

    bought: int
    charged_by_server: int
    in_audit_log: int
    spent_by_other_runs: int
    faults: tuple[str, ...]

    @property
    def is_equal(self) -> bool:
        """Whether all three counts agree and no row does not."""
        return not self.faults and self.bought == self.charged_by_server == self.in_audit_log

    def describe(self) -> str:
        """The disagreements, for people."""
        counts = f"bought {self.bought}, charged {self.charged_by_server}, in the audit log {self.in_audit_log}"
        shown = list(self.faults[:_FAULTS_SHOWN])
        if len(self.faults) > _FAULTS_SHOWN:
            shown.append(f"... and {len(self.faults) - _FAULTS_SHOWN} more")
        return "; ".join([counts, *shown])


def require_same_key(folder: RunFolder, teacher: Teacher) -> None:
    """Raise RunStoreError when the key is not the one the run began with: its answers are on that key's account.

    Under another key the batches in flight would be charged again, and neither key's log would tell the whole.
    """
    if key_identity(teacher) != folder.record.key_identity:
        raise RunStoreError(f"{folder.path}: the run was begun with another key; it goes on with that one only")


def audit_folder(folder: RunFolder, teacher: Teacher) -> Audit:
    """Compare the run's own rows with the teacher's log for this key, as it is now. Raises RunStoreError."""
    require_same_key(folder, teacher)
    usage = teacher.usage()
    for _ in range(_LOOKS_MAX):
        before, events = usage, list(teacher.events())
        usage = teacher.usage()
        if usage == before:  # else another run bought under the same key while its log was read
            break
    return audit_run(folder.labels.purchases(), folder.labels.recorded_keys(), events, usage)


def audit_run(
    purchases: Sequence[Purchase], recorded_keys: frozenset[str], events: Sequence[Event], usage: Usage
) -> Audit:
    """Compare row by row.

    ``recorded_keys`` are the idempotency keys of all batches the run has recorded, answered or not: they tell this
    run's events from those of other runs under the same key.
    """
    answers = [event for event in events if event.kind == "answer"]
    ours = [event for event in answers if event.idempotency_key in recorded_keys]
    others = sum(event.images for event in answers) - sum(event.images for event in ours)
    faults = chain_faults(events)
    faults += _sum_faults(events)
    faults += _usage_faults(events, usage)
    faults += _purchase_faults(purchases, ours)
    return Audit(
        bought=sum(purchase.images for purchase in purchases),
        charged_by_server=usage.spent - others,
        in_audit_log=sum(event.images for event in ours),
        spent_by_other_runs=others,
        faults=tuple(faults),
    )


def _usage_faults(events: Sequence[Event], usage: Usage) -> list[str]:
    """The key's counters must be what its events add up to."""
    spent = sum(event.images for event in events if event.kind == "answer")
    granted = sum(event.images for event in events if event.kind in ("create", "grant"))
    faults = []
    if spent != usage.spent:
        faults.append(f"the key's counter says {usage.spent} spent, its log adds up to {spent}")
    if granted != usage.granted:
        faults.append(f"the key's counter says {usage.granted} granted, its log adds up to {granted}")
    if usage.remaining != usage.granted - usage.spent:
        faults.append(f"the key's counter says {usage.remaining} remaining of {usage.granted}, {usage.spent} spent")
    return faults


def _sum_faults(events: Sequence[Event]) -> list[str]:
    """Each event's running sums must be what the events up to it add up to."""
    faults, spent, granted = [], 0, 0
    for event in events:
        spent += event.images if event.kind == "answer" else 0
        granted += event.images if event.kind in ("create", "grant") else 0
        if (event.spent, event.granted) != (spent, granted):
            faults.append(
                f"event {event.sequence} says {event.spent} spent of {event.granted} after it, "
                f"the log adds up to {spent} of {granted}"
            )
    return faults


def _purchase_faults(purchases: Sequence[Purchase], ours: Sequence[Event]) -> list[str]:
    faults = []
    by_key: dict[str, list[Event]] = {}
    for event in ours:
        by_key.setdefault(event.idempotency_key, []).append(event)
    for purchase in purchases:
        found = by_key.pop(purchase.idempotency_key, [])
        name = f"batch {purchase.idempotency_key[:12]} ({purchase.images} images)"
        if len(found) != 1:
            faults.append(f"{name} stands {len(found)} times in the teacher's log")
            continue
        faults += [f"{name}: {difference}" for difference in _differences(purchase, found[0])]
    for key, unanswered in by_key.items():
        images = sum(event.images for event in unanswered)
        faults.append(f"batch {key[:12]} ({images} images) is charged but its answer is not here: `distill resume`")
    return faults


def _differences(purchase: Purchase, event: Event) -> list[str]:
    pairs = {
        "images": (purchase.images, event.images),
        "images charged": (purchase.charged, event.images),
        "input digest": (purchase.input_digest, event.input_digest),
        "answer digest": (purchase.answer_digest, event.answer_digest),
        "version": (purchase.version, event.version),
        "disclosure": (purchase.disclosure, event.disclosure),
        "event sequence": (purchase.event_sequence, event.sequence),
        "event hash": (purchase.event_hash, event.hash),
    }
    return [f"{field} is {own} here and {theirs} there" for field, (own, theirs) in pairs.items() if own != theirs]
