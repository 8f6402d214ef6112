"""What the client needs of a teacher, whoever runs it."""

import base64
import binascii
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, ValidationError

from distill_client.errors import Charged, TeacherProtocolError
from shared.wire.contracts import Event, EventSignature, Receipt, SigningKeys, TeacherCard, Usage

Values = NDArray[np.float32] | NDArray[np.int64]
# What an image is sent as: a tensor of its bytes, a tensor of fractions, or an encoded file.
InputForm = Literal["uint8", "fp32", "png", "webp", "jpeg"]


class Capabilities(TeacherCard):
    """What a teacher can do: its card, and what is the same for every server of ours but not for other teachers.

    ``disclosure`` says whether it gives full distributions, the top k, or labels. A set of classes that is not closed
    is another's vocabulary, mapped to ours.
    """

    is_closed_set: bool = True
    input_form: InputForm = "uint8"
    upscaled_to: str | None = Field(None, description="HxW that images are enlarged to before they are sent")
    has_permission: bool | None = Field(
        None, description="whether the user states that its terms allow training on its answers; None for our servers"
    )
    reports_usage: bool = Field(True, description="whether it counts what was bought, and shows its count")
    honours_idempotency: bool = Field(True, description="whether a request asked again is charged once")

    def how_to_get(self, images: int) -> str:
        """What to do when the budget lacks so many images, for messages."""
        if self.reports_usage:
            return f"ask the owner for a grant of {images}"
        return f"allow {images} more by max_queries and max_cost of the teacher's file"


@dataclass(frozen=True)
class ImageFailure:
    """Why one image of a call has no answer; ``charged`` is whether it was paid for all the same."""

    reason: str
    retryable: bool
    charged: Charged


@dataclass(frozen=True)
class Answer:
    """A paid answer to one batch.

    ``values``: float32 N x K, NaN where not disclosed; or int64 N where only labels are. A row of NaN alone, or the
    label -1, was paid for and says nothing (a class that is none of ours). ``failures``: by place in the batch, the
    images that have no answer; their rows mean nothing. ``receipt`` as it came (``read_receipt`` reads it), empty
    where the teacher gives none. ``is_recomputed``: computed again after its stored body had expired, so that its
    digest need not be the one in the receipt.

    From a teacher that keeps no count, ``event_hash`` is empty: the client's own ledger makes the event, and
    ``ask_sequence`` is the one by which it had counted the images before they were sent.
    """

    values: Values
    version: str
    disclosure: str
    charged: int
    spent: int = 0
    remaining: int = 0
    event_sequence: int = 0
    event_hash: str = ""
    receipt: str = ""
    is_recomputed: bool = False
    failures: Mapping[int, ImageFailure] = field(default_factory=dict)
    ask_sequence: int = 0

    @property
    def answered_values(self) -> Values:
        """The rows of the images that have an answer, in their order."""
        if not self.failures:
            return self.values
        kept: Values = self.values[[place for place in range(len(self.values)) if place not in self.failures]]
        return kept

    @property
    def is_counted(self) -> bool:
        """Whether the teacher counted it, so that the client need not."""
        return bool(self.event_hash)


@dataclass(frozen=True)
class SignedEvent:
    """One row of a key's log, and who signed it."""

    event: Event
    signature: EventSignature


class Teacher(Protocol):
    """A classifier that answers batches of uint8 images_nhwc for a price of one query per image, and keeps a log."""

    def card(self) -> Capabilities:
        """What the teacher says of itself, with this key's disclosure and budget."""
        ...

    def label(self, images_nhwc: NDArray[np.uint8], idempotency_key: str) -> Answer:
        """Buy one batch. Asking again under the same key gives the same answer and is charged once, where the teacher
        honours idempotency keys.

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
