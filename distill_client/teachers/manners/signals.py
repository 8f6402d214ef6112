"""What other people's servers mean by their refusals: one table, from status, header and body to what is to be done.

Vendors do not agree: AWS throttles with 400, OpenAI's 429 has two meanings, Hugging Face's credits end with 402 and
Clarifai puts its codes into the body of a 200. A teacher's own signals are looked at first, the vendors' after them,
and what a status commonly means last.
"""

import re
from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from distill_client.errors import BudgetExhausted, Charged, TeacherRefused
from distill_client.teachers.expressions import JmesPath, Pattern, find, parse_json
from distill_client.teachers.manners.patience import Pressure, Retryable
from distill_client.teachers.manners.pauses import asked_pause_s
from distill_client.teachers.transport import HttpReply

Meaning = Literal["throttled", "exhausted", "overloaded", "bad_request", "unauthorised", "unknown_outcome"]
Status = Annotated[int, Field(ge=100, le=599)]

_PRESSURES: dict[Meaning, Pressure] = {"throttled": "throttled", "overloaded": "overloaded"}
_RETRYABLE = ("throttled", "overloaded", "unknown_outcome")
_SHOWN_CHARACTERS = 300
_SEARCHED_BYTES = 65_536


class Signal(BaseModel):
    """A reply that has one of these statuses (any failure, where none is given) and this text in it means that.

    The text is looked for in the value of ``header``, in the value at ``path`` in the body's JSON, or in either where
    both are given; in the whole body where neither is. A reply with a status of 200 to 299 is an answer to every
    signal that does not name that status.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    meaning: Meaning
    status: tuple[Status, ...] = ()
    header: str = ""
    path: JmesPath = "@"
    body: Pattern = Field("", description="a regular expression that is searched for; empty fits every text")
    charged: Charged = "no"
    pause_s: float | None = Field(None, ge=0, le=3600, description="where the reply itself names no pause")
    vendor: str = Field("", description="whose signal it is")

    def fits(self, reply: HttpReply, text: str, document: object = None) -> bool:
        """Whether the reply is this signal; ``text`` is its body's, ``document`` what that holds as JSON."""
        if reply.status not in self.status and (self.status or reply.is_success):
            return False
        return any(re.search(self.body, found) for found in self._searched(reply, text, document))

    def _searched(self, reply: HttpReply, text: str, document: object) -> list[str]:
        if not self.header and self.path == "@":
            return [text]
        found = [reply.headers.get(self.header, "")] if self.header else []
        if self.path != "@":
            try:
                value = find(self.path, document)
            except ValueError:
                value = None
            found += [value if isinstance(value, str) else str(value)] if value is not None else []
        return [each for each in found if each]


def _aws(meaning: Meaning, names: str, charged: Charged = "no") -> Signal:
    """By the error's type: in a header, or in the body as ``namespace#Type``; whatever the status."""
    body = rf"(^|#)({names})(:|$)"
    path = "__type || code || Code"
    return Signal(meaning=meaning, header="x-amzn-errortype", path=path, body=body, charged=charged, vendor="AWS")


def _clarifai(meaning: Meaning, codes: str) -> Signal:
    statuses = (200, 400, 401, 402, 403, 404, 429, 500, 503)
    pause_s = 15.0 if meaning == "throttled" else None  # what Clarifai advises; it names none in the reply
    return Signal(
        meaning=meaning,
        status=statuses,
        path="status.code",
        body=f"^({codes})$",
        pause_s=pause_s,
        vendor="Clarifai",
    )


def _google(meaning: Meaning, path: str, body: str, charged: Charged = "no") -> Signal:
    return Signal(meaning=meaning, path=path, body=body, charged=charged, vendor="Google")


_GOOGLE_REASONS = "error.[errors[].reason, details[].reason][] | join(' ', @)"
VENDORS = (
    _aws(
        "throttled",
        "Throttling|ThrottlingException|ThrottledException|RequestThrottled|RequestThrottledException|"
        "TooManyRequestsException|ProvisionedThroughputExceededException|RequestLimitExceeded|"
        "BandwidthLimitExceeded|LimitExceededException|SlowDown|PriorRequestNotComplete|"
        "TransactionInProgressException|EC2ThrottledException",
    ),
    _aws("overloaded", "ModelNotReadyException|ResourceNotReadyException|ServiceUnavailable(Exception)?"),
    _aws("exhausted", "ServiceQuotaExceededException|OptInRequired|SubscriptionRequiredException"),
    _aws(
        "unauthorised",
        "AccessDenied(Exception)?|UnrecognizedClientException|InvalidSignatureException|SignatureDoesNotMatch|"
        "ExpiredToken(Exception)?|IncompleteSignature(Exception)?|MissingAuthenticationToken(Exception)?|"
        "InvalidClientTokenId",
    ),
    _aws(
        "unknown_outcome",
        "InternalServerError|InternalFailure|InternalServerException|InternalDependencyException|ModelError",
        charged="unknown",
    ),
    Signal(
        meaning="exhausted",
        status=(429, 403),
        path="error.[code, type][] | join(' ', @)",
        body=r"\b(insufficient_quota|billing_hard_limit_reached|billing_not_active)\b",
        vendor="OpenAI",
    ),
    Signal(
        meaning="exhausted",
        status=(403, 429),
        body=r"(?i)out of call volume quota|\bQuotaExceeded\b|ExceededQuota",
        vendor="Azure",
    ),
    Signal(meaning="overloaded", status=(503,), path="estimated_time", vendor="Hugging Face"),
    _clarifai("throttled", "11003|11005|10030|CONN_EXCEED_HOURLY_LIMIT|CONN_THROTTLED|TRY_AGAIN"),
    _clarifai("exhausted", "11000|11004|11006|CONN_ACCOUNT_ISSUES|CONN_EXCEED_MONTHLY_LIMIT|CONN_EXCEEDS_LIMITS"),
    _clarifai("unauthorised", "11001|11002|11007|11008|11009|CONN_(TOKEN|CREDENTIALS|KEY)_INVALID"),
    _google("exhausted", "error.details[].metadata.quota_limit | join(' ', @)", "PerDay|PerMonth"),
    _google("exhausted", _GOOGLE_REASONS, r"\b(dailyLimitExceeded|quotaExceeded|BILLING_DISABLED)\b"),
    _google("throttled", _GOOGLE_REASONS, r"\b(rateLimitExceeded|userRateLimitExceeded|RATE_LIMIT_EXCEEDED)\b"),
    _google("throttled", "error.status", "^RESOURCE_EXHAUSTED$"),
    _google("overloaded", "error.status", "^UNAVAILABLE$"),
    _google("unknown_outcome", "error.status", "^(DEADLINE_EXCEEDED|INTERNAL|ABORTED)$", charged="unknown"),
    _google("unauthorised", "error.status", "^(UNAUTHENTICATED|PERMISSION_DENIED)$"),
)
COMMON = (
    Signal(meaning="throttled", status=(429,)),
    Signal(meaning="exhausted", status=(402,)),  # Hugging Face, when its credits end
    Signal(meaning="unauthorised", status=(401, 403, 407)),
    Signal(meaning="overloaded", status=(503, 529)),
    Signal(meaning="unknown_outcome", status=(408, 424, 500, 502, 504), charged="unknown"),
)


def signal_of(reply: HttpReply, own: Sequence[Signal] = ()) -> Signal | None:
    """What a reply signals; None for one that is an answer, as far as its status and the table go."""
    text, document = _text_and_json(reply)
    for signal in (*own, *VENDORS, *COMMON):
        if signal.fits(reply, text, document):
            return signal
    if reply.is_success:
        return None
    if reply.status >= 500:
        return Signal(meaning="unknown_outcome", charged="unknown")
    return Signal(meaning="bad_request")


def failure_of(reply: HttpReply, own: Sequence[Signal] = (), *, found: Signal | None = None) -> Exception:
    """The error that a reply without an answer means: Retryable, TeacherRefused or BudgetExhausted.

    ``found`` where its signal is known already. ``x-should-retry`` (true or false), where it is sent, decides over
    the table whether asking again may help.
    """
    text, document = _text_and_json(reply)
    signal = found or signal_of(reply, own) or Signal(meaning="unknown_outcome", charged="unknown")
    shown = " ".join(text[:_SHOWN_CHARACTERS].split()) or "no text"
    message = f"{reply.url}: HTTP {reply.status}, {signal.meaning}: {shown}"
    if 300 <= reply.status < 400:
        message += (
            "; redirects are not followed, so that the key goes nowhere else: the file's url must be where it leads"
        )
    should_retry = reply.headers.get("x-should-retry", "").strip().lower()
    if should_retry == "true" or (signal.meaning in _RETRYABLE and should_retry != "false"):
        after_s = asked_pause_s(reply.headers, document)
        return Retryable(
            message,
            after_s=signal.pause_s if after_s is None else after_s,
            pressure=_PRESSURES.get(signal.meaning, ""),
            charged=signal.charged,
        )
    if signal.meaning == "exhausted":
        return BudgetExhausted(message, granted=0, spent=0)
    return TeacherRefused(message, code=signal.meaning, charged=signal.charged)


def _text_and_json(reply: HttpReply) -> tuple[str, object]:
    """An answer may be long, and is read as JSON as a whole; a refusal is shown, and searched, from its beginning."""
    text = reply.content[:_SEARCHED_BYTES].decode("utf-8", errors="replace")
    if reply.content.lstrip()[:1] not in (b"{", b"["):
        return text, None
    try:
        return text, parse_json(reply.content)
    except ValueError:
        return text, None
