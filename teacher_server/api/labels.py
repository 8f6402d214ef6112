"""POST /v1/teachers/{name}/labels, and of one version: a batch of images in, a charged answer out."""

import json
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
from fastapi import APIRouter, Depends, Header, Request, Response

from shared.wire.contracts import EventReference, LabelsAnswer
from shared.wire.error_codes import ErrorCode
from shared.wire.images import NPY_MEDIA_TYPE, encode_npy
from teacher_server.api.body import FILES_FIELD, MULTIPART_MEDIA_TYPE, read_body
from teacher_server.api.context import Caller, CurrentServer, Server
from teacher_server.api.documented import bought, problems
from teacher_server.api.purchase import (
    REFUSALS,
    Asked,
    IdempotencyKey,
    admitted,
    answer,
    answer_headers,
    ranked,
    rounded,
)
from teacher_server.errors import Refusal
from teacher_server.ledger.charging.answers import Answered

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

_RESPONSES = {200: bought(NPY_MEDIA_TYPE), **problems(*REFUSALS, ErrorCode.NOT_ACCEPTABLE)}


@dataclass(frozen=True)
class _Form:
    """How a caller wants to be answered: under which idempotency key, as an array or as JSON."""

    idempotency_key: str
    as_npy: bool


def _form(
    idempotency_key: IdempotencyKey,
    accept: Annotated[str, Header(include_in_schema=False)] = "*/*",  # OpenAPI has it said by the responses
) -> _Form:
    return _Form(idempotency_key, _wants_npy(accept))


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

    Of several versions of the teacher the default answers; the answer says which one did. With the header
    `Teacher-Disclosure` the request is answered under that policy or, uncharged, not at all.
    """
    return await _buy(request, server, Asked(key, name, None, form.idempotency_key), form)


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
    return await _buy(request, server, Asked(key, name, version, form.idempotency_key), form)


async def _buy(request: Request, server: Server, asked: Asked, form: _Form) -> Response:
    async with admitted(server, asked):
        answered = await answer(request, server, asked, await read_body(request, server.settings))
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


def _npy_response(answered: Answered) -> Response:
    return Response(encode_npy(answered.disclosed), media_type=NPY_MEDIA_TYPE, headers=answer_headers(answered))


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
        json.dumps(content, separators=(",", ":")), media_type="application/json", headers=answer_headers(answered)
    )


def _disclosed_json(answered: Answered) -> dict[str, Any]:
    values = answered.disclosed
    if values.dtype.kind == "i":
        return {"labels": values.tolist()}
    rounded_nk = rounded(values.astype(np.float32, copy=False))
    if answered.event.disclosure.startswith("top-k"):
        return {"top_k": [_top_k_json(row) for row in rounded_nk]}
    return {"probabilities": rounded_nk.tolist()}


def _top_k_json(row: np.ndarray[Any, np.dtype[np.float64]]) -> list[dict[str, float]]:
    return [{"label": int(label), "probability": float(row[label])} for label in ranked(row)]
