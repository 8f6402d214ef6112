"""What the client needs of a teacher, whoever runs it."""

import base64
import binascii
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from distill_client.errors import TeacherProtocolError
from shared.wire.contracts import Event, EventSignature, Receipt, SigningKeys, TeacherCard, Usage

Values = NDArray[np.float32] | NDArray[np.int64]


@dataclass(frozen=True)
class Answer:
    """A paid answer to one batch.

    ``values``: float32 N x K, NaN where not disclosed; or int64 N where only labels are. ``receipt`` as it came
    (``read_receipt`` reads it), empty where the teacher gives none. ``is_recomputed``: computed again after its
    stored body had expired, so that its digest need not be the one in the receipt.
    """

    values: Values
    version: str
    disclosure: str
    charged: int
    spent: int
    remaining: int
    event_sequence: int
    event_hash: str
    receipt: str = ""
    is_recomputed: bool = False


@dataclass(frozen=True)
class SignedEvent:
    """One row of a key's log, and who signed it."""

    event: Event
    signature: EventSignature


class Teacher(Protocol):
    """A classifier that answers batches of uint8 images_nhwc for a price of one query per image."""

    def card(self) -> TeacherCard:
        """What the teacher says of itself, with this key's disclosure and budget."""
        ...

    def label(self, images_nhwc: NDArray[np.uint8], idempotency_key: str) -> Answer:
        """Buy one batch. Asking again under the same key gives the same answer and is charged once.

        Raises BudgetExhausted, TeacherRefused, TeacherUnavailable, TeacherProtocolError.
        """
        ...

    def usage(self) -> Usage:
        """The key's budget as the teacher counts it."""
        ...

    def events(self) -> Iterator[Event]:
        """The key's own log at the teacher, oldest first."""
        ...

    def signed_events(self) -> Iterator[SignedEvent]:
        """The same, each with its signature; an empty one where the teacher did not sign yet."""
        ...

    def signing_keys(self) -> SigningKeys | None:
        """The public keys that receipts are signed with; None from a server that does not sign."""
        ...


def key_identity(teacher: Teacher) -> str:
    """The hash of the key's first event: the same for as long as the key lives, and no other key's.

    Raises TeacherProtocolError when the teacher's log for this key is empty.
    """
    for event in teacher.events():
        return event.hash
    raise TeacherProtocolError("the teacher's log for this key is empty; it should begin with the key's creation")


def read_receipt(text: str) -> Receipt:
    """A receipt in the form of the header that carries it: base64url, without padding, of its JSON.

    Raises ValueError when it is none.
    """
    try:
        raw = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
        return Receipt.model_validate_json(raw)
    except (binascii.Error, ValidationError, ValueError) as error:
        raise ValueError(f"it cannot be read: {str(error).splitlines()[0]}") from error
