"""What a teacher's refusals mean for the one who asks: ask again, come back later, or stop."""

import email.utils
import time
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Literal

from pydantic import ValidationError

from distill_client.errors import BudgetExhausted, TeacherProtocolError, TeacherRefused, TeacherUnavailable
from shared.wire.contracts import Problem
from shared.wire.error_codes import ErrorCode

_HINTS = {
    ErrorCode.UNAUTHENTICATED: " (the key is read from DISTILL_API_KEY)",
    ErrorCode.ANSWER_EXPIRED: (
        "; this batch was charged once and will not be charged again, but its answer is neither stored nor to be "
        "computed as it was. If the teacher's owner serves the version and the policy of that time again, "
        "`distill resume` still gets it at no charge"
    ),
    ErrorCode.LEDGER_INCONSISTENT: (
        "; the server has found that its own record of this key does not add up and sells nothing for it until its "
        "owner has looked. What was paid for is kept here with its receipts: `distill audit` compares, and "
        "`distill resume` goes on once it is mended"
    ),
}
_PAUSE_S_MAX = 10 * 366 * 86_400.0  # of what is told to people; a server may say any number


class Retryable(Exception):
    """Asking again may help. ``after_s`` is how long the teacher wants to be left alone, where it says so.

    ``charged`` is whether this attempt may have been charged.
    """

    def __init__(
        self, message: str, *, after_s: float | None = None, code: str = "", charged: Literal["no", "unknown"] = "no"
    ) -> None:
        super().__init__(message)
        self.after_s = after_s
        self.code = code
        self.charged = charged


class Patience:
    """How long one request is repeated: until its deadline, and not at all where the teacher says "much later".

    A pause that a rate limit asks for is not counted against the deadline: a teacher that keeps its pace is not one
    that fails.
    """

    def __init__(self, deadline_s: float) -> None:
        self._deadline_s = deadline_s
        self._ends = time.monotonic() + deadline_s
        self._charged: Literal["no", "unknown"] = "no"
        self._until: datetime | None = None

    def decide(self, error: Retryable) -> bool | float:
        """Whether to ask again: False, True for the usual growing pause, or the seconds to wait."""
        if error.charged == "unknown":  # and stays so until there is an answer
            self._charged = "unknown"
        left_s, after_s = self._ends - time.monotonic(), error.after_s
        if left_s <= 0:
            return False
        if after_s is None:
            return True
        if error.code == ErrorCode.RATE_LIMITED and after_s <= self._deadline_s:
            self._ends += after_s
            return after_s
        if after_s > left_s:
            self._until = datetime.now(UTC) + timedelta(seconds=min(after_s, _PAUSE_S_MAX))
            return False
        return after_s

    def exhausted(self, error: Retryable, where: str, *, is_purchase: bool) -> TeacherUnavailable:
        """What to raise when ``decide`` has said no; a purchase also says whether it may have been charged."""
        if self._until is not None:
            message = (
                f"{error}; {where} asks to be left alone until {self._until:%Y-%m-%d %H:%M:%S} UTC, which is beyond "
                f"the deadline of {self._deadline_s:g} s: go on then with `distill resume`"
            )
        else:
            message = f"no answer from {where} within {self._deadline_s:g} s ({error})"
        if is_purchase and self._charged == "unknown":
            message += (
                ". Whether the batch was charged is not known here; asking again under the same idempotency key, as "
                "`distill resume` does, settles it without a second charge"
            )
        elif is_purchase:
            message += ". Nothing was charged for it"
        return TeacherUnavailable(message, charged=self._charged if is_purchase else "no")


def failure_of(status: int, headers: Mapping[str, str], content: bytes, address: str) -> Exception:
    """The error that a response other than a success means: Retryable, or one of TeacherError."""
    after_s = retry_after_s(headers.get("Retry-After", ""))
    try:
        problem = Problem.model_validate_json(content)
    except ValidationError:
        what = f"HTTP {status} without a problem document"
        if status in (408, 429) or status >= 500:  # a proxy in between, whatever became of the request behind it
            return Retryable(what, after_s=after_s, charged="no" if status == 429 else "unknown")
        return TeacherProtocolError(f"{address}: {what}; is this a teacher's address?")
    extra = problem.model_extra or {}
    if problem.retryable:
        is_unknown = extra.get("charged", "unknown" if status == 500 else "no") != "no"
        return Retryable(
            f"{problem.code}: {problem.detail}",
            after_s=after_s,
            code=problem.code,
            charged="unknown" if is_unknown else "no",
        )
    if problem.code == ErrorCode.BUDGET_EXHAUSTED:
        granted, spent = (extra.get(name) for name in ("granted", "spent"))
        if isinstance(granted, int) and isinstance(spent, int):
            return BudgetExhausted(problem.detail, granted=granted, spent=spent)
    hint = next((hint for code, hint in _HINTS.items() if code == problem.code), "")
    return TeacherRefused(f"{problem.code}: {problem.detail}{hint}", code=problem.code)


def retry_after_s(value: str) -> float | None:
    """Seconds, from either form of the Retry-After header; None when it says nothing."""
    if value.isdecimal() and value.isascii():
        return float(value)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
    except (ValueError, OverflowError):
        return None
