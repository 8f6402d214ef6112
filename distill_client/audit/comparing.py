"""Row by row: what the client holds, answers and receipts, against what a log says."""

from collections.abc import Sequence

from distill_client.audit.books import Audit, Difference, sentences
from distill_client.audit.held import Held
from distill_client.audit.log_faults import log_differences
from distill_client.audit.logs import TeacherLog
from distill_client.teachers.native.receipts import Pin
from distill_client.teachers.paid.store import Purchase
from shared.counting import counted
from shared.wire.contracts import Event, Receipt
from shared.wire.signatures import is_signed_by


def audit_run(
    purchases: Sequence[Purchase],
    recorded_keys: frozenset[str],
    log: TeacherLog,
    *,
    pin: Pin | None = None,
    trusted: dict[str, str] | None = None,
    resume: str = "distill resume",
) -> Audit:
    """Compare row by row.

    ``recorded_keys`` are the idempotency keys of all batches the run has recorded, answered or not: they tell this
    run's events from those of other runs under the same key. ``trusted``, fingerprint to public key, is what follows
    from ``pin``; both are None for a run from a server that does not sign.
    """
    held = Held.of(purchases, pin, trusted or {})
    answers = [event for event in log.events if event.kind == "answer"]
    ours = [event for event in answers if event.idempotency_key in recorded_keys]
    others = sum(event.images for event in answers) - sum(event.images for event in ours)
    rows = _Rows(held, log, trusted or {}, resume)
    return Audit(
        bought=sum(purchase.images for purchase in purchases),
        charged_by_server=log.usage.spent - others,
        in_audit_log=sum(event.images for event in ours),
        spent_by_other_runs=others,
        differences=(
            *log.differences,
            *log_differences(log, held, pin, trusted),
            *sentences("log", held.forks),
            *sentences("here", held.faults),
            *rows.differences(purchases, ours),
        ),
        answers=len(purchases),
        receipts=len(held.receipts),
        recomputed=sum(purchase.is_recomputed for purchase in purchases),
        pinned="" if pin is None else pin.signing_key,
        last_receipt=held.last_receipt,
        log=log.source,
    )


class _Rows:
    """The comparison of every paid answer with the event that should be its charge."""

    def __init__(self, held: Held, log: TeacherLog, trusted: dict[str, str], resume: str) -> None:
        self._held = held
        self._log = log
        self._trusted = trusted
        self._resume = resume
        self._by_sequence = {row.event.sequence: row for row in log.rows}
        restored = [event.at for event in log.events if event.kind == "restore"]
        self._restored = (
            f" (the log says that the ledger was restored from a backup at {restored[-1]}: what was sold after that "
            "backup is gone there)"
            if restored
            else ""
        )

    def differences(self, purchases: Sequence[Purchase], ours: Sequence[Event]) -> list[Difference]:
        found: list[Difference] = []
        by_key: dict[str, list[Event]] = {}
        for event in ours:
            by_key.setdefault(event.idempotency_key, []).append(event)
        for purchase in purchases:
            found += self._compare(purchase, by_key.pop(purchase.idempotency_key, []))
        for key, unanswered in by_key.items():
            images, numbers = (
                sum(event.images for event in unanswered),
                ", ".join(str(e.sequence) for e in unanswered),
            )
            found.append(
                Difference(
                    "unfetched",
                    f"batch {key[:12]} ({counted(images, 'image')}) is charged, event {numbers}, but its answer is "
                    f"not here: asking again is free, `{self._resume}` does it",
                )
            )
        return found

    def _compare(self, purchase: Purchase, events: Sequence[Event]) -> list[Difference]:
        name = f"batch {purchase.idempotency_key[:12]} ({counted(purchase.images, 'image')})"
        receipt = self._held.receipts.get(purchase.idempotency_key)
        if not events and self._log.lacks(purchase.event_sequence):
            return [self._in_the_missing_part(name, purchase.event_sequence)]
        if not events and receipt is not None:
            return [self._not_in_log(name, receipt)]
        if len(events) != 1:
            what = "the client has only its own record of it, no receipt" if receipt is None else "it was sold once"
            sentence = f"{name} stands {len(events)} times in the teacher's log; {what}. Ask the teacher's owner"
            return [Difference("log" if receipt is None else "evidence", sentence, receipt)]
        return self._compare_with(purchase, events[0], name, receipt)

    def _compare_with(self, purchase: Purchase, event: Event, name: str, receipt: Receipt | None) -> list[Difference]:
        found = _differences(purchase, event)
        if not found:
            return []
        sentence = f"{name}: {'; '.join(found)}. "
        if receipt is None:
            sentence += "The client has only its own record of it, no receipt; ask the teacher's owner"
            return [Difference("log", sentence, None, event)]
        if receipt.event != event:
            return [Difference("evidence", sentence + self._contradicts(receipt), receipt, event)]
        return [Difference("here", sentence + "The receipt agrees with the log: answers.sqlite was changed", receipt)]

    def _in_the_missing_part(self, name: str, sequence: int) -> Difference:
        """The file lost it on its way, which says nothing of the teacher."""
        source = self._log.source
        sentence = (
            f"{name} was charged by event {sequence}, in the part of {source} that is missing; ask for it again"
        )
        return Difference("export", sentence)

    def _not_in_log(self, name: str, receipt: Receipt) -> Difference:
        event, last = receipt.event, self._log.events[-1].sequence if self._log.rows else 0
        if self._log.at and event.at > self._log.at:
            return Difference(
                "export",
                f"{name} was charged at {event.at}, after {self._log.source} was written ({self._log.at}): ask the "
                "teacher's owner for a newer file",
            )
        sentence = f"{name} was received, with a receipt for event {event.sequence}, and is not in the log"
        if event.sequence > last:
            sentence += f", which ends with event {last}"
        sentence += f". {self._contradicts(receipt)}"
        row = self._by_sequence.get(event.sequence)
        return Difference("evidence", sentence, receipt, row.event if row else None)

    def _contradicts(self, receipt: Receipt) -> str:
        """What the receipt is worth against what the log has in its event's place."""
        row = self._by_sequence.get(receipt.event.sequence)
        if row is not None and row.event.hash != receipt.event.hash:
            public_key = self._trusted.get(row.signature.signing_key, "")
            if is_signed_by(public_key, row.event, row.signature.signature):
                told = f"The teacher has signed two different events {receipt.event.sequence}: its chain was forked"
            else:
                told = f"The log has another event {receipt.event.sequence}, with a signature that is none"
        else:
            told = "The teacher has signed what its log does not say"
        return f"{told}{self._restored}; the receipt is evidence, show it to the teacher's owner"


def _differences(purchase: Purchase, event: Event) -> list[str]:
    pairs: dict[str, tuple[object, object]] = {
        "images": (purchase.images, event.images),
        "images charged": (purchase.charged, event.images),
        "images spent": (purchase.spent, event.spent),
        "input digest": (purchase.input_digest, event.input_digest),
        "version": (purchase.version, event.version),
        "disclosure": (purchase.disclosure, event.disclosure),
        "event sequence": (purchase.event_sequence, event.sequence),
        "event hash": (purchase.event_hash, event.hash),
    }
    if not purchase.is_recomputed:
        pairs["answer digest"] = (purchase.answer_digest, event.answer_digest)
    return [f"{field} is {own} here and {theirs} there" for field, (own, theirs) in pairs.items() if own != theirs]
