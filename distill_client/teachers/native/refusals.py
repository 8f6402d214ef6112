"""What our own server's refusals mean for the one who asks: ask again, come back later, or stop."""

from collections.abc import Mapping

from pydantic import ValidationError

from distill_client.errors import BudgetExhausted, TeacherProtocolError, TeacherRefused
from distill_client.teachers.manners.patience import Pressure, Retryable, retry_after_s
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
_PRESSURES: dict[str, Pressure] = {ErrorCode.RATE_LIMITED: "throttled", ErrorCode.OVERLOADED: "overloaded"}


def failure_of(status: int, headers: Mapping[str, str], content: bytes, address: str) -> Exception:
    """The error that a response other than a success means: Retryable, or one of TeacherError."""
    after_s = retry_after_s(headers.get("Retry-After", ""))
    try:
        problem = Problem.model_validate_json(content)
    except ValidationError:
        what = f"HTTP {status} without a problem document"
        if status in (408, 429) or status >= 500:  # a proxy in between, whatever became of the request behind it
            pressure: Pressure = "overloaded" if status in (429, 503) else ""
            return Retryable(what, after_s=after_s, charged="no" if status == 429 else "unknown", pressure=pressure)
        return TeacherProtocolError(f"{address}: {what}; is this a teacher's address?")
    extra = problem.model_extra or {}
    if problem.retryable:
        is_unknown = extra.get("charged", "unknown" if status == 500 else "no") != "no"
        return Retryable(
            f"{problem.code}: {problem.detail}",
            after_s=after_s,
            pressure=_PRESSURES.get(problem.code, ""),
            charged="unknown" if is_unknown else "no",
        )
    if problem.code == ErrorCode.BUDGET_EXHAUSTED:
        granted, spent = (extra.get(name) for name in ("granted", "spent"))
        if isinstance(granted, int) and isinstance(spent, int):
            return BudgetExhausted(problem.detail, granted=granted, spent=spent)
    hint = next((hint for code, hint in _HINTS.items() if code == problem.code), "")
    return TeacherRefused(f"{problem.code}: {problem.detail}{hint}", code=problem.code)
