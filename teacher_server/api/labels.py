"""POST /v1/teachers/{name}/labels, and of one version: a batch of images in, a charged answer out."""

import base64
import json
import re
import uuid
from dataclasses import dataclass
from typing import Annotated, Any

import anyio.to_thread
import numpy as np
from fastapi import APIRouter, Depends, Header, Request, Response

from shared.wire import contracts
from shared.wire.contracts import PROBABILITY_DECIMALS, EventReference, LabelsAnswer
from shared.wire.error_codes import ErrorCode
from shared.wire.images import NPY_MEDIA_TYPE, encode_npy
from teacher_server.api.body import FILES_FIELD, MULTIPART_MEDIA_TYPE, read_body
from teacher_server.api.context import Caller, CurrentServer, Server
from teacher_server.api.documented import labels_answer, problems
from teacher_server.errors import Refusal
from teacher_server.labelling import LabelRequest
from teacher_server.ledger.charging.answers import Answered
from teacher_server.ledger.keys.issuing import Key

router = APIRouter(tags=["labels"])

_REQUEST_BODY: dict[str, Any] = {
    "required": True,
    "content": {
        NPY_MEDIA_TYPE: {"schema": {"type": "string", "format": "binary"}},
        MULTIPART_MEDIA_TYPE: {
            "schema": {
                "type": "object",
                "required": [FILES_FIELD],
                "additionalProperties": False,
                "properties": {
                    FILES_FIELD: {"type": "array", "minItems": 1, "items": {"type": "string", "format": "binary"}}
                },
            },
            "encoding": {FILES_FIELD: {"contentType": "image/png, image/jpeg, image/webp"}},
        },
    },
}

_RESPONSES = {
    200: labels_answer(),
    **problems(
        ErrorCode.UNAUTHENTICATED,
        ErrorCode.BUDGET_EXHAUSTED,
        ErrorCode.NOT_FOUND,
        ErrorCode.TEACHER_NOT_FOUND,
        ErrorCode.NOT_ACCEPTABLE,
        ErrorCode.BODY_TOO_LARGE,
        ErrorCode.TOO_MANY_IMAGES,
        ErrorCode.UNSUPPORTED_MEDIA_TYPE,
        ErrorCode.INVALID_REQUEST,
        ErrorCode.INVALID_IMAGES,
        ErrorCode.INVALID_IDEMPOTENCY_KEY,
        ErrorCode.IDEMPOTENCY_KEY_REUSED,
        ErrorCode.STILL_RUNNING,
        ErrorCode.ANSWER_EXPIRED,
        ErrorCode.RATE_LIMITED,
        ErrorCode.DAILY_BUDGET_EXHAUSTED,
        ErrorCode.LEDGER_UNAVAILABLE,
        ErrorCode.LEDGER_INCONSISTENT,
    ),
}

# Said in the document only: what does not fit is refused with a code of its own.
_KEY_SCHEMA: dict[str, Any] = {"pattern": contracts.IDEMPOTENCY_KEY_PATTERN, "minLength": 1, "maxLength": 255}


@dataclass(frozen=True)
class _Form:
    """How a caller wants to be answered: under which idempotency key, as an array or as JSON."""

    idempotency_key: str
    as_npy: bool


def _form(
    request: Request,
    idempotency_key: Annotated[str | None, Header(json_schema_extra=_KEY_SCHEMA)] = None,
    accept: Annotated[str, Header(include_in_schema=False)] = "*/*",  # OpenAPI has it said by the responses
) -> _Form:
    request.state.body_was_read = False
    as_npy = _wants_npy(accept)
    return _Form(_require_idempotency_key(idempotency_key), as_npy)


Form = Annotated[_Form, Depends(_form)]


@router.post(
    "/v1/teachers/{name}/labels",
    summary="Buy the teacher's answer to a batch of images",
    response_model=LabelsAnswer,
    responses=_RESPONSES,
    openapi_extra={"requestBody": _REQUEST_BODY},
)
async def buy_labels(
    name: str,
    request: Request,
    key: Caller,
    server: CurrentServer,
    form: Form,
) -> Response:
    """Body: one `.npy` file (uint8, N x H x W x C), or image files in the form field `images`.

    The batch is answered whole or refused whole; every image is charged. A request repeated under the same
    `Idempotency-Key` gets the same answer and is charged once. With `Accept: application/x-npy` the answer is the
    array alone (float32 N x K, NaN where not disclosed; int64 N for labels) and the rest stands in headers.

    Of several versions of the teacher the default answers; the answer says which one did.
    """
    return await _buy(request, server, key, (name, None), form)


@router.post(
    "/v1/teachers/{name}/versions/{version:path}/labels",
    summary="Buy the answer of one version of the teacher",
    response_model=LabelsAnswer,
    responses=_RESPONSES,
    openapi_extra={"requestBody": _REQUEST_BODY},
)
async def buy_labels_of_version(
    name: str,
    version: str,
    request: Request,
    key: Caller,
    server: CurrentServer,
    form: Form,
) -> Response:
    """As `/v1/teachers/{name}/labels`, answered by this version or not at all.

    A repeated request gets its stored answer even when the version is no longer served.
    """
    return await _buy(request, server, key, (name, version), form)


async def _buy(request: Request, server: Server, key: Key, asked: tuple[str, str | None], form: _Form) -> Response:
    name, version = asked
    server.consistency.require_consistent(key.id)
    if server.catalogue.find(name, version) is None:
        # Refused before the body is read, unless an earlier answer may be asked for again.
        await anyio.to_thread.run_sync(server.labelling.require_answerable, key, name, version, form.idempotency_key)
    with server.admission.request(key):
        body = await read_body(request, server.settings)
        label_request = LabelRequest(key, name, body, form.idempotency_key, request.state.request_id, version)
        answered = await anyio.to_thread.run_sync(
            server.labelling.answer, label_request, limiter=server.answering_threads
        )
    return _npy_response(answered) if form.as_npy else _json_response(answered)


def _wants_npy(accept: str) -> bool:
    offered = {part.partition(";")[0].strip().lower() for part in accept.split(",")}
    if NPY_MEDIA_TYPE in offered:
        return True
    if offered & {"*/*", "application/*", "application/json", ""}:
        return False
    raise Refusal(
        ErrorCode.NOT_ACCEPTABLE, f"Accept is {accept!r}; allowed are application/json and {NPY_MEDIA_TYPE}"
    )


def _require_idempotency_key(given: str | None) -> str:
    if given is None:
        return uuid.uuid4().hex
    if not re.fullmatch(contracts.IDEMPOTENCY_KEY_PATTERN, given):
        raise Refusal(
            ErrorCode.INVALID_IDEMPOTENCY_KEY,
            f"Idempotency-Key is {given[:80]!r}; allowed are 1 to 255 printable ASCII characters without spaces",
        )
    return given


def _headers(answered: Answered) -> dict[str, str]:
    event, receipt = answered.event, answered.signed.receipt
    marks = dict(answered.standing.headers)
    if answered.is_recomputed:
        marks[contracts.HEADER_RECOMPUTED] = "true"
    if receipt:
        encoded = base64.urlsafe_b64encode(receipt.model_dump_json().encode()).decode("ascii")
        marks[contracts.HEADER_RECEIPT] = encoded.rstrip("=")
    return marks | {
        contracts.HEADER_REQUEST_ID: answered.request_id,
        contracts.HEADER_IDEMPOTENCY_KEY: event.idempotency_key,
        contracts.HEADER_REPLAYED: str(answered.is_replay).lower(),
        contracts.HEADER_TEACHER: event.teacher,
        contracts.HEADER_VERSION: event.version,
        contracts.HEADER_DISCLOSURE: event.disclosure,
        contracts.HEADER_CHARGED: str(event.images),
        contracts.HEADER_SPENT: str(event.spent),
        contracts.HEADER_REMAINING: str(answered.remaining),
        contracts.HEADER_EVENT_SEQUENCE: str(event.sequence),
        contracts.HEADER_EVENT_HASH: event.hash,
    }


def _npy_response(answered: Answered) -> Response:
    return Response(encode_npy(answered.disclosed), media_type=NPY_MEDIA_TYPE, headers=_headers(answered))


def _json_response(answered: Answered) -> Response:
    """Rendered from what is stored and nothing else, so that a replay is the same byte for byte."""
    event, receipt = answered.event, answered.signed.receipt
    content: dict[str, Any] = {
        "request_id": answered.request_id,
        "teacher": event.teacher,
        "version": event.version,
        **_disclosed_json(answered),
        "charged": event.images,
        "spent": event.spent,
        "remaining": answered.remaining,
        "event": EventReference(sequence=event.sequence, hash=event.hash).model_dump(),
        "receipt": receipt.model_dump() if receipt else None,
    }
    return Response(
        json.dumps(content, separators=(",", ":")), media_type="application/json", headers=_headers(answered)
    )


def _disclosed_json(answered: Answered) -> dict[str, Any]:
    values = answered.disclosed
    if values.dtype.kind == "i":
        return {"labels": values.tolist()}
    # float32 holds 6 decimals exactly enough: rounding its float64 value gives back the decimal that was meant.
    rounded_nk = np.round(values.astype(np.float64), PROBABILITY_DECIMALS)
    if answered.event.disclosure.startswith("top-k"):
        return {"top_k": [_top_k_json(row) for row in rounded_nk]}
    return {"probabilities": rounded_nk.tolist()}


def _top_k_json(row: np.ndarray[Any, np.dtype[np.float64]]) -> list[dict[str, float]]:
    disclosed = np.flatnonzero(~np.isnan(row))
    ranked = disclosed[np.argsort(-row[disclosed], kind="stable")]
    return [{"label": int(label), "probability": float(row[label])} for label in ranked]
