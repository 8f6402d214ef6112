"""POST /hf/{name}: one image in, ``[{"label", "score"}]`` out, as Hugging Face's servers classify images."""

import base64
import binascii
import json
import re
from typing import Annotated, Any, Literal

import anyio.to_thread
from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from shared.wire.error_codes import ErrorCode
from teacher_server.api.body import read_bytes, require_media_type
from teacher_server.api.context import Caller, CurrentServer, Server
from teacher_server.api.documented import bought, plain_errors
from teacher_server.api.json_body import parse_json
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
from teacher_server.decoding import ImageFilesBody
from teacher_server.errors import Refusal
from teacher_server.ledger.charging.answers import Answered

TOP_K_DEFAULT = 5  # as Hugging Face's own pipeline
JSON_MEDIA_TYPE = "application/json"
_DATA_URI = re.compile(r"data:image/[a-z0-9.+-]{1,40};base64,", re.IGNORECASE)

router = APIRouter(tags=["hugging face"])


class ClassificationParameters(BaseModel):
    """How the answer is wanted."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    top_k: Annotated[int, Field(ge=1)] | None = Field(None, description="5 where it is not given")
    function_to_apply: Literal["softmax"] | None = Field(None, description="answers are probabilities")


class ClassificationRequest(BaseModel):
    """One image, and how its answer is wanted; members that are not known are ignored."""

    model_config = ConfigDict(frozen=True, extra="ignore", strict=True)

    inputs: str = Field(description="base64 of one PNG, JPEG or WebP file, or a data URI of it; no address")
    parameters: ClassificationParameters | None = None


class ScoredClass(BaseModel):
    """A class and its probability, null where the key may not see it."""

    label: str
    score: float | None


_ASK: dict[str, Any] = {
    "response_model": list[ScoredClass],
    "responses": {200: bought(None), **plain_errors(*REFUSALS, path="/hf")},
    "openapi_extra": {
        "requestBody": {
            "required": True,
            "content": {
                "image/png": {"schema": {"type": "string", "format": "binary"}},
                JSON_MEDIA_TYPE: {"schema": {"$ref": f"#/components/schemas/{ClassificationRequest.__name__}"}},
            },
        }
    },
}


@router.post("/hf/{name}", summary="Buy the teacher's answer to one image", **_ASK)
async def classify(
    name: str, request: Request, key: Caller, server: CurrentServer, idempotency_key: IdempotencyKey
) -> Response:
    """Body: an image file (`image/*`, `application/octet-stream`, or no type), or JSON with its base64.

    Charged as under /v1 and to the same budget. The most probable classes come first, `top_k` of them or as many as
    the key may see.
    """
    return await _classify(request, server, Asked(key, name, None, idempotency_key))


@router.post("/hf/{name}/versions/{version:path}", summary="Buy the answer of one version to one image", **_ASK)
async def classify_by_version(
    name: str, version: str, request: Request, key: Caller, server: CurrentServer, idempotency_key: IdempotencyKey
) -> Response:
    """The same, answered by this version or not at all."""
    return await _classify(request, server, Asked(key, name, version, idempotency_key))


async def _classify(request: Request, server: Server, asked: Asked) -> Response:
    types = (JSON_MEDIA_TYPE, "application/octet-stream", "")
    is_json = require_media_type(request, types, pattern="image/*") == JSON_MEDIA_TYPE
    async with admitted(server, asked):
        content, top_k = await read_bytes(request, server.settings), TOP_K_DEFAULT
        if is_json:
            content, top_k = await anyio.to_thread.run_sync(_parse, content, limiter=server.parsing_threads)
        answered = await answer(request, server, asked, ImageFilesBody((content,)))
    return _response(answered, top_k, server)


def _parse(content: bytes) -> tuple[bytes, int]:
    """The image file and how many classes are wanted. Raises Refusal: invalid_request, body_too_large."""
    asked = parse_json(content, ClassificationRequest)
    prefix = _DATA_URI.match(asked.inputs)
    try:
        file = base64.b64decode(asked.inputs[prefix.end() if prefix else 0 :].encode("ascii"), validate=True)
    except (UnicodeEncodeError, binascii.Error) as error:
        raise Refusal(
            ErrorCode.INVALID_REQUEST,
            f"inputs is {asked.inputs[:40]!r}...; allowed are the base64 of one image file and a data URI "
            "(data:image/...;base64,...) of it; nothing is fetched from an address",
        ) from error
    return file, (asked.parameters and asked.parameters.top_k) or TOP_K_DEFAULT


def _response(answered: Answered, top_k: int, server: Server) -> Response:
    event = answered.event
    teacher = server.catalogue.find(event.teacher, event.version)
    names = teacher.class_names if teacher else ()  # an answer given again may be of a version no longer served
    if answered.disclosed.dtype.kind == "i":
        scores: list[tuple[int, float | None]] = [(int(answered.disclosed[0]), None)]
    else:
        row = rounded(answered.disclosed[:1])[0]  # type: ignore[arg-type]  # float32
        scores = [(int(at), float(row[at])) for at in ranked(row)[:top_k]]
    content = [{"label": names[at] if at < len(names) else f"LABEL_{at}", "score": score} for at, score in scores]
    return Response(
        json.dumps(content, separators=(",", ":")), media_type=JSON_MEDIA_TYPE, headers=answer_headers(answered)
    )
