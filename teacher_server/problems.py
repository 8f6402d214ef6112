"""Every failure as RFC 9457 problem+json with ``code`` and ``retryable``; never a traceback.

Below the addresses of other protocols it is the document that those have, ``{"error": "..."}``.
"""

import json
import logging

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from shared.wire.contracts import HEADER_REQUEST_ID
from shared.wire.error_codes import ERROR_KINDS, PROBLEM_MEDIA_TYPE, ErrorCode, problem_type
from teacher_server.errors import Refusal

HEADER_ERROR_CODE = "X-Error-Code"
RETRY_AFTER_S = 1
# Where errors are ``{"error": "..."}``, and what has another status there: Hugging Face's servers say 402 when there
# is nothing left to spend, and its client tells of any 403 that the token lacks permissions.
_PLAIN: dict[str, dict[ErrorCode, int]] = {"/v2": {}, "/hf": {ErrorCode.BUDGET_EXHAUSTED: 402}}
_log = logging.getLogger("teacher_server")
_CODE_OF_STATUS = {404: ErrorCode.NOT_FOUND, 405: ErrorCode.METHOD_NOT_ALLOWED}


def add_problem_handlers(app: FastAPI) -> None:
    """Make ``app`` answer every exception with a problem document."""
    app.add_exception_handler(Refusal, _on_refusal)
    app.add_exception_handler(HTTPException, _on_http_exception)
    app.add_exception_handler(RequestValidationError, _on_validation_error)
    app.add_exception_handler(Exception, _on_defect)


def status_at(path: str, code: ErrorCode) -> int:
    """The status of ``code`` at this address."""
    return _PLAIN.get(_protocol(path), {}).get(code, ERROR_KINDS[code].status)


def problem_response(refusal: Refusal, request: Request) -> Response:
    """Render one refusal."""
    path = request.url.path
    headers, content = render_problem(refusal, instance=path, request_id=request.state.request_id)
    if _protocol(path) in _PLAIN:
        headers |= {"Content-Type": "application/json", HEADER_ERROR_CODE: refusal.code.value}
        content = json.dumps({"error": _in_words(refusal)}, separators=(",", ":")).encode("ascii")
    if not getattr(request.state, "body_was_read", not _announces_body(request)):
        headers["Connection"] = "close"  # else the rest of a body nobody wants would have to be received
    return Response(content, status_at(path, refusal.code), headers=headers)


def _protocol(path: str) -> str:
    return "/" + path.removeprefix("/").partition("/")[0]


def _in_words(refusal: Refusal) -> str:
    """One text for clients that show nothing else: code, detail and members."""
    members = ", ".join(f"{name}={value}" for name, value in refusal.members.items())
    return f"{refusal.code.value}: {refusal.detail}" + (f" ({members})" if members else "")


def render_problem(refusal: Refusal, *, instance: str, request_id: str) -> tuple[dict[str, str], bytes]:
    """Headers and body of one refusal; ``instance`` is the path it happened at, empty where there is none."""
    kind = ERROR_KINDS[refusal.code]
    headers = {
        # The id is set here too: the answer to a defect is sent from outside every middleware.
        HEADER_REQUEST_ID: request_id,
        "X-Should-Retry": str(kind.retryable).lower(),
        "Content-Type": PROBLEM_MEDIA_TYPE,
        **refusal.headers,
    }
    if refusal.code is ErrorCode.UNAUTHENTICATED:
        headers["WWW-Authenticate"] = "Bearer"
    if kind.retryable and kind.status in (409, 429, 503):
        headers["Retry-After"] = str(refusal.members.get("retry_after_s", RETRY_AFTER_S))
    content = {
        "type": problem_type(refusal.code),
        "title": kind.title,
        "status": kind.status,
        "detail": refusal.detail,
        **({"instance": instance} if instance else {}),
        "code": refusal.code.value,
        "retryable": kind.retryable,
        "request_id": request_id,
        **refusal.members,
    }
    return headers, json.dumps(content, separators=(",", ":")).encode("ascii")


def _announces_body(request: Request) -> bool:
    return request.headers.get("content-length", "0") != "0" or "transfer-encoding" in request.headers


async def _on_refusal(request: Request, error: Exception) -> Response:
    assert isinstance(error, Refusal)
    if error.code is ErrorCode.LEDGER_UNAVAILABLE:
        _log.error("ledger unavailable: %s", error.__cause__)
    return problem_response(error, request)


async def _on_http_exception(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    code = _CODE_OF_STATUS.get(error.status_code, ErrorCode.INVALID_REQUEST)
    refusal = Refusal(code, f"{request.method} {request.url.path}: {error.detail}; the API is described at /docs")
    response = problem_response(refusal, request)
    response.headers.update(error.headers or {})
    return response


async def _on_validation_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    faults = [f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}" for fault in error.errors()]
    return problem_response(Refusal(ErrorCode.INVALID_REQUEST, "; ".join(faults)), request)


async def _on_defect(request: Request, error: Exception) -> Response:
    _log.error("request %s failed", request.state.request_id, exc_info=error)
    detail = "the server failed; ask again with the same Idempotency-Key, which is charged at most once"
    return problem_response(Refusal(ErrorCode.INTERNAL, detail), request)
