"""How long a request is repeated, and what may be asked again: the deadline, and the pauses that a teacher wants."""

import email.utils
import time
from datetime import UTC, datetime, timedelta
from typing import Literal

from distill_client.errors import Charged, TeacherUnavailable

_PAUSE_S_MAX = 10 * 366 * 86_400.0  # of what is told to people; a server may say any number
# A teacher that only ever says "not so fast" is left after as many deadlines.
_DEADLINES_OF_PAUSES_MAX = 20

# How a refusal asks for fewer requests: "throttled" is a pace that was agreed on, "overloaded" is a teacher in need.
Pressure = Literal["", "throttled", "overloaded"]


class Retryable(Exception):
    """Asking again may help. ``after_s`` is how long the teacher wants to be left alone, where it says so.

    ``charged`` is whether this attempt may have been charged.
    """

    def __init__(
        self, message: str, *, after_s: float | None = None, pressure: Pressure = "", charged: Charged = "no"
    ) -> None:
        super().__init__(message)
        self.after_s = after_s
        self.pressure = pressure
        self.charged = charged


class Patience:
    """How long one request is repeated: until its deadline, and not at all where the teacher says "much later".

    A pause that a rate limit asks for is not counted against the deadline: a teacher that keeps its pace is not one
    that fails.
    """

    def __init__(self, deadline_s: float) -> None:
        self._deadline_s = deadline_s
        self._ends = time.monotonic() + deadline_s
        self._pauses_s = 0.0
        self._charged: Charged = "no"
        self._until: datetime | None = None

    def waited(self, seconds: float) -> None:
        """So long was waited for a place among the requests in flight, which is not the teacher's failing."""
        self._ends += seconds
        self._pauses_s += seconds

    def give_up(self) -> None:
        """Whatever comes next is the last."""
        self._ends = time.monotonic()

    def decide(self, error: Retryable) -> bool | float:
        """Whether to ask again: False, True for the usual growing pause, or the seconds to wait."""
        if error.charged == "unknown":  # and stays so until there is an answer
            self._charged = "unknown"
        left_s, after_s = self._ends - time.monotonic(), error.after_s
        if after_s is None:
            return left_s > 0
        if left_s > 0 and error.pressure == "throttled" and self._may_pause(after_s):
            self._ends += after_s
            self._pauses_s += after_s
            return after_s
        if left_s <= 0 and after_s <= self._deadline_s:
            return False
        if after_s > left_s:
            self._until = datetime.now(UTC) + timedelta(seconds=min(after_s, _PAUSE_S_MAX))
            return False
        return after_s

    def _may_pause(self, after_s: float) -> bool:
        return after_s <= self._deadline_s and self._pauses_s <= _DEADLINES_OF_PAUSES_MAX * self._deadline_s

    def exhausted(
        self, error: Retryable, where: str, *, is_purchase: bool, settles: bool = True
    ) -> TeacherUnavailable:
        """What to raise when ``decide`` has said no; a purchase also says whether it may have been charged.

        ``settles`` is whether the same request, asked again, is charged once.
        """
        if self._until is not None:
            message = (
                f"{error}; {where} asks to be left alone until {self._until:%Y-%m-%d %H:%M:%S} UTC, which is beyond "
                f"the deadline of {self._deadline_s:g} s: go on then with `distill resume`"
            )
        else:
            message = f"no answer from {where} within {self._deadline_s:g} s ({error})"
        if is_purchase:
            message += f". {self._about_the_charge(settles=settles)}"
        return TeacherUnavailable(message, charged=self._charged if is_purchase else "no")

    def _about_the_charge(self, *, settles: bool) -> str:
        if self._charged == "no":
            return "Nothing was charged for it"
        if settles:
            return (
                "Whether the batch was charged is not known here; asking again under the same idempotency key, as "
                "`distill resume` does, settles it without a second charge"
            )
        return (
            "Whether it was charged is not known, so it counts as spent in the client's own ledger; `distill resume` "
            "asks again, and that may be charged a second time"
        )


def retry_after_s(value: str) -> float | None:
    """Seconds, from either form of the Retry-After header; None when it says nothing."""
    if value.isdecimal() and value.isascii():
        return float(value)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
    except (ValueError, OverflowError):
        return None
