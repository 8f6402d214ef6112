"""What the OpenAPI document says of answers: every status with its codes, media types and headers."""

from collections.abc import Iterable
from typing import Any

from fastapi import FastAPI
from pydantic import BaseModel

from shared.wire import contracts
from shared.wire.contracts import Problem
from shared.wire.error_codes import ERROR_KINDS, PROBLEM_MEDIA_TYPE, ErrorCode
from shared.wire.rate_limits import HEADER_RATE_LIMIT, HEADER_RATE_LIMIT_POLICY
from teacher_server.problems import HEADER_ERROR_CODE, status_at

Responses = dict[int | str, dict[str, Any]]


class PlainError(BaseModel):
    """An error as the Open Inference Protocol and Hugging Face's servers give it."""

    error: str


# Any address may answer so, before or after it is known what was asked for.
_ANYWHERE = (
    ErrorCode.MALFORMED_REQUEST,
    ErrorCode.HEADERS_TOO_LARGE,
    ErrorCode.BODY_INCOMPLETE,
    ErrorCode.OVERLOADED,
    ErrorCode.INTERNAL,
)
# What is not yet a request, or on one connection too many, has no address whose protocol could be spoken.
_BEFORE_ANY_ADDRESS = frozenset(
    (ErrorCode.MALFORMED_REQUEST, ErrorCode.HEADERS_TOO_LARGE, ErrorCode.BODY_INCOMPLETE, ErrorCode.OVERLOADED)
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


def plain_errors(*codes: ErrorCode, path: str = "/v2") -> Responses:
    """The same of an address below ``path``, where errors are ``{"error": "..."}`` and the code is a header."""
    by_status: dict[int, list[ErrorCode]] = {}
    for code in ErrorCode:
        if code in codes or code in _ANYWHERE:
            by_status.setdefault(status_at(path, code), []).append(code)
    found: Responses = {}
    for status, here in sorted(by_status.items()):
        found[status] = _problem(status, here)
        if not _BEFORE_ANY_ADDRESS.intersection(here):
            found[status]["content"] = {}
        found[status]["content"]["application/json"] = {"schema": PlainError.model_json_schema()}
        found[status]["headers"][HEADER_ERROR_CODE] = _header("the code, of those in the table")
    return found


def bought(media_type: str | None) -> dict[str, Any]:
    """The 200 of a purchase, as JSON, which is FastAPI's to describe, or as bytes of ``media_type``."""
    headers = {name: _header(what, required=True) for name, what in _HEADERS_OF_AN_ANSWER.items()}
    headers |= {name: _header(what) for name, what in _HEADERS_AT_TIMES.items()}
    content = {media_type: {"schema": {"type": "string", "format": "binary"}}} if media_type else {}
    return {"description": "Charged, or charged before", "headers": headers, "content": content}


def add_schemas(app: FastAPI, bodies: Iterable[type[BaseModel]]) -> None:
    """Put the schemas of problem documents and of ``bodies``, which we read ourselves, where they are referred to."""
    describe = app.openapi

    def with_schemas() -> dict[str, Any]:
        document = describe()
        schemas = document.setdefault("components", {}).setdefault("schemas", {})
        schemas["Problem"] = Problem.model_json_schema()
        for model in bodies:
            described = model.model_json_schema(ref_template="#/components/schemas/{model}")
            schemas |= described.pop("$defs", {})
            schemas[model.__name__] = described
        return document

    app.openapi = with_schemas  # type: ignore[method-assign]  # as FastAPI's documentation has it


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
