"""The books of a run whose teacher keeps no count: the client's own ledger against the answers that it keeps.

Nobody else has seen these events, so they prove nothing to others; what they show is that the client counted every
image before it was sent, and has an account of each.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from distill_client.audit.books import Difference, Kind, sentences
from distill_client.run_folder import RunFolder
from distill_client.teachers.paid.allowance import money
from distill_client.teachers.paid.own_counts import OwnCounts, Unsettled
from distill_client.teachers.paid.own_ledger import Asking, OwnLedger
from distill_client.teachers.paid.store import Purchase
from shared.counting import counted
from shared.wire.contracts import Event
from shared.wire.images import batch_digest
from shared.wire.receipts import chain_faults

_FAULTS_SHOWN = 10
_KIND: Kind = "here"  # there is no other side


@dataclass(frozen=True)
class OwnAudit:
    """Satisfies ``Books``. ``bought`` images have answers in the store; ``ledger`` is what the own ledger says.

    Unsettled images are no difference: they are on the books, as spent, with all that is known of them.
    """

    bought: int
    ledger: OwnCounts
    differences: tuple[Difference, ...] = ()

    @property
    def faults(self) -> tuple[str, ...]:
        """See Books."""
        return tuple(difference.sentence for difference in self.differences)

    @property
    def is_equal(self) -> bool:
        """See Books."""
        return not self.differences

    @property
    def counts(self) -> dict[str, int]:
        """See Books."""
        ledger = self.ledger
        return {
            "bought": self.bought,
            "asked": ledger.asked,
            "answered": ledger.answered,
            "failed": ledger.failed,
            "released": ledger.released,
            "unsettled_images": ledger.unsettled_images,
            "spent": ledger.spent,
            "granted": ledger.granted,
        }

    @property
    def sentence(self) -> str:
        """See Books."""
        if not self.is_equal:
            return (
                f"The paid answers and the client's own ledger do not agree ({self.bought:,} images kept, "
                f"{self.ledger.answered:,} answered by the ledger; {counted(len(self.differences), 'difference')}): "
                f"{self.faults[0]}."
            )
        ledger = self.ledger
        parts = [f"{ledger.spent:,} images count as spent, {ledger.answered:,} of them answered"]
        if ledger.failed:
            parts.append(f"{ledger.failed:,} charged without an answer")
        if ledger.unsettled:
            parts.append(f"{ledger.unsettled_images:,} whose charge is not known")
        cost = f", at a cost of {self._money(ledger.cost)}" if ledger.allowance.price_per_image else ""
        return (
            f"{', '.join(parts)}{cost}: counted by the client's own ledger before they were sent, and answer by "
            "answer the same in its store; the teacher keeps no count that this could be compared with, and gives no "
            "receipts."
        )

    def _money(self, amount: Decimal) -> str:
        return money(amount, self.ledger.allowance.currency)

    def describe(self) -> str:
        """See Books."""
        shown = list(self.faults[:_FAULTS_SHOWN])
        if len(self.faults) > _FAULTS_SHOWN:
            shown.append(f"... and {len(self.faults) - _FAULTS_SHOWN} more")
        return "; ".join([f"kept {self.bought}, answered by the own ledger {self.ledger.answered}", *shown])

    def listing(self) -> list[str]:
        """See Books: the images whose charge is not known."""
        if not self.ledger.unsettled:
            return []
        lines = [f"not known whether charged ({counted(self.ledger.unsettled_images, 'image')}):"]
        return lines + [f"  {line}" for line in describe_unsettled(self.ledger)]

    def as_summary(self) -> dict[str, Any]:
        """See Books."""
        allowance = self.ledger.allowance
        return {
            "audit": {
                "equal": self.is_equal,
                "sentence": self.sentence,
                "faults": list(self.faults),
                "counted_by": "client",
                "receipts": 0,
                "pinned": "",
            },
            "last_receipt": None,
            "cost": {
                "spent": str(self.ledger.cost),
                "unsettled": str(self.ledger.unsettled_cost),
                "price_per_image": str(allowance.price_per_image),
                "max_cost": None if allowance.max_cost is None else str(allowance.max_cost),
                "currency": allowance.currency,
            },
            "unsettled": [_unsettled_json(each) for each in self.ledger.unsettled],
        }

    def as_json(self) -> dict[str, Any]:
        """See Books."""
        summary = self.as_summary()
        return {
            **self.counts,
            **summary.pop("audit"),
            "differences": [{"kind": each.kind, "sentence": each.sentence} for each in self.differences],
            **summary,
        }


def describe_unsettled(counts: OwnCounts) -> list[str]:
    """One line for each asking whose charge is not known: its number, batch, images, time and money."""
    currency = counts.allowance.currency
    return [
        f"{each.sequence}: batch {each.idempotency_key[:12]}, {counted(each.images, 'image')}, asked for at "
        f"{each.asked_at}" + (f", {money(each.cost, currency)}" if each.cost else "")
        for each in counts.unsettled
    ]


def _unsettled_json(each: Unsettled) -> dict[str, Any]:
    return {
        "sequence": each.sequence,
        "batch": each.idempotency_key,
        "images": each.images,
        "asked_at": each.asked_at,
        "cost": str(each.cost),
        "image_digests": list(each.image_digests),
    }


def audit_own(folder: RunFolder) -> OwnAudit:
    """Compare the run's paid answers with its own ledger, and the ledger with itself; asks nobody.

    Raises RunStoreError when the ledger cannot be read.
    """
    ledger, purchases = folder.labels.own_ledger, folder.labels.purchases()
    events = ledger.events()
    faults = [
        *_beginning_faults(events, folder.record.key_identity),
        *chain_faults(events),
        *_sum_faults(events),
        *_asking_faults(events, ledger),
        *_answer_faults(events, purchases),
    ]
    bought = sum(purchase.images for purchase in purchases)
    return OwnAudit(bought, ledger.counts(), tuple(sentences(_KIND, faults)))


def _beginning_faults(events: Sequence[Event], key_identity: str) -> Iterator[str]:
    if not events or events[0].hash != key_identity:
        yield "the client's own ledger does not begin with the event that run.json names: it was changed or replaced"


def _sum_faults(events: Sequence[Event]) -> Iterator[str]:
    """Each event's running sums must be what the events up to it add up to, and never more spent than granted."""
    spent = granted = 0
    for event in events:
        spent += {"ask": event.images, "release": -event.images}.get(event.kind, 0)
        granted += event.images if event.kind in ("create", "grant") else 0
        if (event.spent, event.granted) != (spent, granted):
            yield (
                f"event {event.sequence} says {event.spent} spent of {event.granted} after it, the own ledger adds "
                f"up to {spent} of {granted}"
            )
        if spent > granted:
            yield f"after event {event.sequence} more is spent ({spent}) than was granted ({granted})"


def _asking_faults(events: Sequence[Event], ledger: OwnLedger) -> Iterator[str]:
    """What is kept of each asking must be what its event says, and its open images those that no event settles."""
    askings: dict[int, Asking] = {asking.sequence: asking for asking in ledger.askings()}
    open_by_asking = {each.sequence: each.images for each in ledger.counts().unsettled}
    for event in events:
        if event.kind != "ask":
            continue
        asking = askings.pop(event.sequence, None)
        if asking is None or batch_digest(list(asking.digests)) != event.input_digest:
            yield f"the images of asking {event.sequence} are not those that its event counted"
        elif asking.open != open_by_asking.get(event.sequence, 0):
            yield f"asking {event.sequence} has {asking.open} open images, its events leave another number open"
    for sequence in askings:
        yield f"asking {sequence} has no event in the own ledger"


def _answer_faults(events: Sequence[Event], purchases: Sequence[Purchase]) -> Iterator[str]:
    """Every kept answer has exactly one event, that says the same, and no event is without its answer."""
    answered = {event.sequence: event for event in events if event.kind == "answer"}
    for purchase in purchases:
        name = f"batch {purchase.idempotency_key[:12]} ({counted(purchase.images, 'image')})"
        event = answered.pop(purchase.event_sequence, None)
        if event is None:
            yield f"{name} is kept, and the own ledger has no event {purchase.event_sequence} that answers it"
            continue
        pairs: dict[str, tuple[object, object]] = {
            "idempotency key": (purchase.idempotency_key, event.idempotency_key),
            "images": (purchase.images, event.images),
            "images charged": (purchase.charged, event.images),
            "images spent": (purchase.spent, event.spent),
            "input digest": (purchase.input_digest, event.input_digest),
            "answer digest": (purchase.answer_digest, event.answer_digest),
            "version": (purchase.version, event.version),
            "disclosure": (purchase.disclosure, event.disclosure),
            "event hash": (purchase.event_hash, event.hash),
        }
        wrong = [
            f"{field} is {kept} in the store and {told} in the ledger"
            for field, (kept, told) in pairs.items()
            if kept != told
        ]
        if wrong:
            yield f"{name}: {'; '.join(wrong)}"
    for event in answered.values():
        yield f"event {event.sequence} answers batch {event.idempotency_key[:12]}, and its answer is not kept"
