"""What the OpenAPI document says of answers: every status with its codes, media types and headers."""

from typing import Any

from fastapi import FastAPI

from shared.wire import contracts
from shared.wire.contracts import Problem
from shared.wire.error_codes import ERROR_KINDS, PROBLEM_MEDIA_TYPE, ErrorCode
from shared.wire.images import NPY_MEDIA_TYPE
from shared.wire.rate_limits import HEADER_RATE_LIMIT, HEADER_RATE_LIMIT_POLICY

Responses = dict[int | str, dict[str, Any]]

# Any address may answer so, before or after it is known what was asked for.
_ANYWHERE = (
    ErrorCode.MALFORMED_REQUEST,
    ErrorCode.HEADERS_TOO_LARGE,
    ErrorCode.BODY_INCOMPLETE,
    ErrorCode.OVERLOADED,
    ErrorCode.INTERNAL,
)
_HEADERS_OF_AN_ANSWER = {
    contracts.HEADER_REQUEST_ID: "of the request that was charged, also when its answer is given again",
    contracts.HEADER_IDEMPOTENCY_KEY: "as given, or as made",
    contracts.HEADER_REPLAYED: "true when this answer was given before",
    contracts.HEADER_TEACHER: "who answered",
    contracts.HEADER_VERSION: "and which version",
    contracts.HEADER_DISCLOSURE: "what the key may see",
    contracts.HEADER_CHARGED: "images this answer was charged",
    contracts.HEADER_SPENT: "images the key has spent, this answer included",
    contracts.HEADER_REMAINING: "images left in its budget then",
    contracts.HEADER_EVENT_SEQUENCE: "the event it was charged by",
    contracts.HEADER_EVENT_HASH: "and its hash",
}
_HEADERS_AT_TIMES = {
    contracts.HEADER_RECEIPT: "the signed receipt, base64url of its JSON",
    HEADER_RATE_LIMIT_POLICY: "the key's limits, as the IETF's draft has it",
    HEADER_RATE_LIMIT: "what they leave",
    contracts.HEADER_RECOMPUTED: "true when the stored values had expired and were computed again",
}


def problems(*codes: ErrorCode) -> Responses:
    """The error responses of an address that refuses with ``codes``, beside what any address may answer."""
    by_status: dict[int, list[ErrorCode]] = {}
    for code in ErrorCode:
        if code in codes or code in _ANYWHERE:
            by_status.setdefault(ERROR_KINDS[code].status, []).append(code)
    return {status: _problem(status, here) for status, here in sorted(by_status.items())}


def labels_answer() -> dict[str, Any]:
    """The 200 of a label request; its JSON is FastAPI's to describe."""
    headers = {name: _header(what, required=True) for name, what in _HEADERS_OF_AN_ANSWER.items()}
    headers |= {name: _header(what) for name, what in _HEADERS_AT_TIMES.items()}
    npy = {"schema": {"type": "string", "format": "binary"}}
    return {"description": "Charged, or charged before", "headers": headers, "content": {NPY_MEDIA_TYPE: npy}}


def add_problem_schema(app: FastAPI) -> None:
    """Put the schema of problem documents where ``problems`` refers to it."""
    describe = app.openapi

    def with_problem() -> dict[str, Any]:
        document = describe()
        document.setdefault("components", {}).setdefault("schemas", {})["Problem"] = Problem.model_json_schema()
        return document

    app.openapi = with_problem  # type: ignore[method-assign]  # as FastAPI's documentation has it


def _problem(status: int, codes: list[ErrorCode]) -> dict[str, Any]:
    headers = {
        contracts.HEADER_REQUEST_ID: _header("names this request", required=True),
        "X-Should-Retry": _header("as `retryable`", required=True),
    }
    if ErrorCode.UNAUTHENTICATED in codes:
        headers["WWW-Authenticate"] = _header("Bearer", required=True)
    if any(ERROR_KINDS[code].retryable and status in (409, 429, 503) for code in codes):
        headers["Retry-After"] = _header("seconds to wait, where asking again may help")
    return {
        "description": "; ".join(f"`{code.value}`: {ERROR_KINDS[code].title}" for code in codes),
        "headers": headers,
        "content": {PROBLEM_MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}},
    }


def _header(description: str, *, required: bool = False) -> dict[str, Any]:
    return {"description": description, "required": required, "schema": {"type": "string"}}
