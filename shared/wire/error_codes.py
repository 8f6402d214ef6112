"""Every way a request can fail: one table for raising, rendering, documenting and parsing errors.

The wire form is RFC 9457 problem+json with two extensions, ``code`` (below) and ``retryable``. A client decides
by ``retryable`` alone, never by the status number.
"""

from dataclasses import dataclass
from enum import StrEnum

PROBLEM_MEDIA_TYPE = "application/problem+json"


class ErrorCode(StrEnum):
    """The closed vocabulary of failures on the wire."""

    UNAUTHENTICATED = "unauthenticated"
    BUDGET_EXHAUSTED = "budget_exhausted"
    NOT_FOUND = "not_found"
    TEACHER_NOT_FOUND = "teacher_not_found"
    METHOD_NOT_ALLOWED = "method_not_allowed"
    NOT_ACCEPTABLE = "not_acceptable"
    BODY_INCOMPLETE = "body_incomplete"
    BODY_TOO_LARGE = "body_too_large"
    TOO_MANY_IMAGES = "too_many_images"
    UNSUPPORTED_MEDIA_TYPE = "unsupported_media_type"
    INVALID_REQUEST = "invalid_request"
    INVALID_IMAGES = "invalid_images"
    INVALID_IDEMPOTENCY_KEY = "invalid_idempotency_key"
    IDEMPOTENCY_KEY_REUSED = "idempotency_key_reused"
    STILL_RUNNING = "still_running"
    ANSWER_EXPIRED = "answer_expired"
    DISCLOSURE_CHANGED = "disclosure_changed"
    RATE_LIMITED = "rate_limited"
    DAILY_BUDGET_EXHAUSTED = "daily_budget_exhausted"
    LEDGER_INCONSISTENT = "ledger_inconsistent"
    HEADERS_TOO_LARGE = "headers_too_large"
    MALFORMED_REQUEST = "malformed_request"
    OVERLOADED = "overloaded"
    LEDGER_UNAVAILABLE = "ledger_unavailable"
    INTERNAL = "internal"


@dataclass(frozen=True)
class ErrorKind:
    """What a code means on the wire: HTTP status, whether asking again may help, and a title for people."""

    status: int
    retryable: bool
    title: str


ERROR_KINDS: dict[ErrorCode, ErrorKind] = {
    ErrorCode.UNAUTHENTICATED: ErrorKind(401, False, "The key is missing, unknown, revoked or expired"),
    ErrorCode.BUDGET_EXHAUSTED: ErrorKind(403, False, "The key's query budget does not cover this request"),
    ErrorCode.NOT_FOUND: ErrorKind(404, False, "There is nothing at this address"),
    ErrorCode.TEACHER_NOT_FOUND: ErrorKind(404, False, "This server has no teacher of that name"),
    ErrorCode.METHOD_NOT_ALLOWED: ErrorKind(405, False, "This address does not take that method"),
    ErrorCode.NOT_ACCEPTABLE: ErrorKind(406, False, "The answer cannot be given in the form asked for"),
    ErrorCode.BODY_INCOMPLETE: ErrorKind(408, True, "The request did not arrive in time"),
    ErrorCode.BODY_TOO_LARGE: ErrorKind(413, False, "The body is larger than this server reads"),
    ErrorCode.TOO_MANY_IMAGES: ErrorKind(413, False, "More images than one request may carry"),
    ErrorCode.UNSUPPORTED_MEDIA_TYPE: ErrorKind(415, False, "The body has a media type this address cannot read"),
    ErrorCode.INVALID_REQUEST: ErrorKind(422, False, "A field of the request is not valid"),
    ErrorCode.INVALID_IMAGES: ErrorKind(422, False, "The images cannot be read as this teacher's input"),
    ErrorCode.INVALID_IDEMPOTENCY_KEY: ErrorKind(422, False, "The Idempotency-Key is not usable"),
    ErrorCode.IDEMPOTENCY_KEY_REUSED: ErrorKind(422, False, "This Idempotency-Key was used for another request"),
    ErrorCode.STILL_RUNNING: ErrorKind(409, True, "The first request under this Idempotency-Key is still running"),
    ErrorCode.ANSWER_EXPIRED: ErrorKind(410, False, "The stored answer has expired and cannot be computed again"),
    ErrorCode.DISCLOSURE_CHANGED: ErrorKind(412, False, "The key's disclosure is not the one asked for"),
    ErrorCode.RATE_LIMITED: ErrorKind(429, True, "The key asks faster than it may"),
    ErrorCode.DAILY_BUDGET_EXHAUSTED: ErrorKind(429, True, "The key's budget for this day is used up"),
    ErrorCode.LEDGER_INCONSISTENT: ErrorKind(503, False, "The ledger's record of this key does not add up"),
    ErrorCode.HEADERS_TOO_LARGE: ErrorKind(431, False, "The request's headers are larger than this server reads"),
    ErrorCode.MALFORMED_REQUEST: ErrorKind(400, False, "The request is not valid HTTP"),
    ErrorCode.OVERLOADED: ErrorKind(503, True, "The server is busy; ask again shortly"),
    ErrorCode.LEDGER_UNAVAILABLE: ErrorKind(503, True, "The ledger cannot be written, so nothing is answered"),
    ErrorCode.INTERNAL: ErrorKind(500, True, "The server failed; nothing was charged unless a replay says so"),
}


def problem_type(code: ErrorCode) -> str:
    """The ``type`` URI of a problem; relative, so that it resolves against the server's own documentation."""
    return f"/docs#{code.value}"
