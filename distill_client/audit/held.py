"""The receipts that the client holds, verified once more: the folder may have been changed since they came."""

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Self

from pydantic import ValidationError

from distill_client.teachers.native.receipts import Pin
from distill_client.teachers.paid.store import Purchase
from shared.counting import counted
from shared.wire.contracts import Receipt
from shared.wire.signatures import receipt_faults


@dataclass(frozen=True)
class Held:
    """Verified receipts by idempotency key; what is wrong with those that are not; and what no one chain can hold.

    ``faults`` and ``forks`` are sentences.
    """

    receipts: Mapping[str, Receipt]
    faults: tuple[str, ...]
    forks: tuple[str, ...]

    @property
    def last_receipt(self) -> Receipt | None:
        """The one for the latest event."""
        return max(self.receipts.values(), key=lambda receipt: receipt.event.sequence, default=None)

    @classmethod
    def of(cls, purchases: Sequence[Purchase], pin: Pin | None, trusted: Mapping[str, str]) -> Self:
        """Verify the receipts of all purchases by the keys that follow from ``pin``; none where there are none."""
        receipts, faults = dict[str, Receipt](), list[str]()
        for purchase in purchases if trusted else ():
            name = f"batch {purchase.idempotency_key[:12]} ({counted(purchase.images, 'image')})"
            if purchase.receipt_json is None:
                if pin is not None and purchase.event_sequence > pin.receipts_after:
                    faults.append(f"{name} has lost its receipt here, though the server signed when it was bought")
                continue
            try:
                receipt = Receipt.model_validate_json(purchase.receipt_json)
            except ValidationError:
                faults.append(f"{name}: its receipt here is damaged and cannot be read")
                continue
            wrong = receipt_faults(receipt, dict(trusted))
            if receipt.event.idempotency_key != purchase.idempotency_key:
                wrong.append(f"its receipt is for batch {receipt.event.idempotency_key[:12]}")
            if wrong:
                faults.append(f"{name}: {'; '.join(wrong)}. It did when it came, so the run folder was changed")
            else:
                receipts[purchase.idempotency_key] = receipt
        return cls(receipts, tuple(faults), tuple(_forks(receipts.values())))


def _forks(receipts: Iterable[Receipt]) -> list[str]:
    """Receipts that cannot all be of one chain, whatever a log says."""
    ordered = sorted(receipts, key=lambda receipt: receipt.event.sequence)
    faults = []
    for before, after in itertools.pairwise(ordered):
        one, other = before.event, after.event
        if one.sequence == other.sequence:
            faults.append(f"two receipts are for event {one.sequence}: the teacher has forked its chain")
        elif other.sequence == one.sequence + 1 and other.previous_hash != one.hash:
            faults.append(f"the receipt for event {other.sequence} does not continue that for {one.sequence}: a fork")
        elif other.spent - one.spent < other.images:
            faults.append(
                f"the receipts say {one.spent} images spent after event {one.sequence} and {other.spent} after "
                f"{other.sequence}, which was for {other.images}: a fork"
            )
    return faults
