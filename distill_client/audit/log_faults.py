"""What is wrong with a key's log by itself: its chain, its sums, its counters, its signatures, its end."""

from collections.abc import Sequence

from distill_client.audit.books import Difference, sentences
from distill_client.audit.held import Held
from distill_client.audit.logs import TeacherLog
from distill_client.teachers.native.receipts import Pin
from distill_client.teachers.protocol import SignedEvent
from shared.wire.contracts import Event, Usage
from shared.wire.receipts import chain_faults
from shared.wire.signatures import is_signed_by, trusted_keys


def log_differences(log: TeacherLog, held: Held, pin: Pin | None, trusted: dict[str, str] | None) -> list[Difference]:
    """Every fault of the log; ``trusted`` as for ``audit_run``."""
    faults = chain_faults(log.events) + _sum_faults(log.events)
    if (
        not log.is_incomplete
    ):  # else the counters are those of the whole log, and that it is not whole is told already
        faults += _usage_faults(log.events, log.usage)
    faults += _signature_faults(log, pin, trusted)
    last, receipt = log.events[-1].sequence if log.rows else 0, held.last_receipt
    is_newer = receipt is not None and bool(log.at) and receipt.event.at > log.at
    if (
        receipt is not None
        and receipt.event.sequence > last
        and not is_newer
        and not log.lacks(receipt.event.sequence)
    ):
        faults.append(
            f"the log ends with event {last}, and there is a receipt for event {receipt.event.sequence}: its tail is "
            "cut off"
        )
    return sentences("log", faults)


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


def _signature_faults(log: TeacherLog, pin: Pin | None, trusted: dict[str, str] | None) -> list[str]:
    """From its first signed event on, every event of a log must be signed by a key that is believed."""
    keys = log.signing_keys
    if pin is not None and not trusted:
        return [f"the signing keys that came with the log do not follow from {pin.signing_key}, which the run pinned"]
    if pin is not None and keys is None and not log.at:
        return [f"the server signed with {pin.signing_key} when the run began, and now it shows no signing keys"]
    if pin is None:  # nobody was believed at the beginning; at least they must be of one line
        if keys is None or not keys.keys:
            return []
        trusted = trusted_keys(keys.keys, keys.keys[0].fingerprint)
    faults, has_begun = [], False
    for row in log.rows:
        if not row.signature.signature and row.event.format == 1 and not has_begun:
            continue  # from before this server signed
        has_begun = True
        if fault := _signature_fault(row, trusted or {}):
            faults.append(f"event {row.event.sequence} {fault}")
    return faults


def _signature_fault(row: SignedEvent, trusted: dict[str, str]) -> str:
    by = row.signature.signing_key
    if not row.signature.signature:
        return "is not signed"
    if by not in trusted:
        return f"is signed by {by[:16]}, which is no key of this ledger"
    return "" if is_signed_by(trusted[by], row.event, row.signature.signature) else "has a forged signature"
