"""What the client needs of a teacher, whoever runs it."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from distill_client.errors import TeacherProtocolError
from shared.wire.contracts import Event, TeacherCard, Usage

Values = NDArray[np.float32] | NDArray[np.int64]


@dataclass(frozen=True)
class Answer:
    """A paid answer to one batch.

    ``values``: float32 N x K, NaN where not disclosed; or int64 N where only labels are.
    """

    values: Values
    version: str
    disclosure: str
    charged: int
    spent: int
    remaining: int
    event_sequence: int
    event_hash: str


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


def key_identity(teacher: Teacher) -> str:
    """The hash of the key's first event: the same for as long as the key lives, and no other key's.

    Raises TeacherProtocolError when the teacher's log for this key is empty.
    """
    for event in teacher.events():
        return event.hash
    raise TeacherProtocolError("the teacher's log for this key is empty; it should begin with the key's creation")
