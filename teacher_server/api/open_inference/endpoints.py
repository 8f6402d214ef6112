"""The addresses under /v2: health, what is served, and buying answers."""

import json
from dataclasses import dataclass
from typing import Annotated, Any

import anyio.to_thread
from fastapi import APIRouter, Depends, Header, HTTPException, Request, Response

from shared.wire.disclosure import Disclosure
from shared.wire.error_codes import ErrorCode
from teacher_server.api.body import read_bytes, require_encoding, require_media_type
from teacher_server.api.context import Caller, CurrentServer, Server
from teacher_server.api.documented import bought, plain_errors
from teacher_server.api.open_inference.compression import ENCODINGS, decompress
from teacher_server.api.open_inference.documents import (
    HEADER_JSON_LENGTH,
    INPUT_NAME,
    LABELS,
    PROBABILITIES,
    InferRequest,
    InferResponse,
    ModelMetadata,
    ModelReady,
    ServerLive,
    ServerMetadata,
    ServerReady,
    TensorMetadata,
)
from teacher_server.api.open_inference.requests import WantedForm, parse_request, require_visible
from teacher_server.api.open_inference.responses import infer_response
from teacher_server.api.purchase import REFUSALS, Asked, IdempotencyKey, admitted, answer
from teacher_server.decoding import Body
from teacher_server.ledger.keys.issuing import Key
from teacher_server.teachers.teacher import Teacher

router = APIRouter(tags=["open inference protocol"], responses=plain_errors())

EXTENSIONS = ["binary_tensor_data", "classification"]
_MEDIA_TYPES = ("application/json", "application/octet-stream", "")
_READING = (
    ErrorCode.UNAUTHENTICATED,
    ErrorCode.NOT_FOUND,
    ErrorCode.TEACHER_NOT_FOUND,
    ErrorCode.INVALID_REQUEST,
    ErrorCode.LEDGER_UNAVAILABLE,
    ErrorCode.LEDGER_INCONSISTENT,
)
_INFER: dict[str, Any] = {
    "response_model": InferResponse,
    "response_model_exclude_none": True,
    "responses": {200: bought("application/octet-stream"), **plain_errors(*REFUSALS)},
    "openapi_extra": {
        "requestBody": {
            "required": True,
            "content": {
                "application/json": {"schema": {"$ref": f"#/components/schemas/{InferRequest.__name__}"}},
                "application/octet-stream": {"schema": {"type": "string", "format": "binary"}},
            },
        }
    },
}


@dataclass(frozen=True)
class _Headers:
    """What the headers of a purchase say of it: its idempotency key, and where its JSON ends."""

    idempotency_key: str
    json_length: str | None


def _headers(
    idempotency_key: IdempotencyKey,
    json_length: Annotated[
        str | None, Header(alias=HEADER_JSON_LENGTH, json_schema_extra={"pattern": "^[0-9]{1,18}$"})
    ] = None,
) -> _Headers:
    return _Headers(idempotency_key, json_length)


Headers = Annotated[_Headers, Depends(_headers)]


@router.get("/v2/health/live", summary="Is the process alive?")
async def live() -> ServerLive:
    """No key is needed."""
    return ServerLive(live=True)


@router.get(
    "/v2/health/ready",
    summary="Can a request be answered now?",
    responses=plain_errors(ErrorCode.LEDGER_UNAVAILABLE, ErrorCode.LEDGER_INCONSISTENT),
)
async def ready(server: CurrentServer) -> ServerReady:
    """As /readyz. No key is needed."""
    await anyio.to_thread.run_sync(server.ledger.check_writable)
    server.consistency.require_all_consistent()
    return ServerReady(ready=True, live=True)


@router.get("/v2", summary="What this server is", responses=plain_errors(*_READING))
async def server_metadata(request: Request, key: Caller) -> ServerMetadata:
    """The protocol's extensions that are spoken here."""
    return ServerMetadata(name="teacher", version=request.app.version, extensions=EXTENSIONS)


@router.get("/v2/models/{name}/ready", summary="Can this teacher be asked now?", responses=plain_errors(*_READING))
async def model_ready(name: str, key: Caller, server: CurrentServer) -> ModelReady:
    """404 where it is not served."""
    return await _model_ready(name, None, key, server)


@router.get(
    "/v2/models/{name}/versions/{version:path}/ready",
    summary="Can this version be asked now?",
    responses=plain_errors(*_READING),
)
async def version_ready(name: str, version: str, key: Caller, server: CurrentServer) -> ModelReady:
    """404 where it is not served."""
    return await _model_ready(name, version, key, server)


@router.get("/v2/models/{name}", summary="One teacher, as a model", responses=plain_errors(*_READING))
async def model_metadata(name: str, key: Caller, server: CurrentServer) -> ModelMetadata:
    """Input and output of the default version; the output is what this key may see."""
    return _metadata(server.labelling.teacher(name), key.disclosure, server)


@router.post("/v2/models/{name}/infer", summary="Buy the teacher's answer to a batch of images", **_INFER)
async def infer(name: str, request: Request, key: Caller, server: CurrentServer, headers: Headers) -> Response:
    """Body: the protocol's JSON, or JSON with the tensor after it as binary, and `Inference-Header-Content-Length`.

    The one input is `images`: UINT8 or FP32 (pixels / 255) N x H x W x C, or BYTES [N], image files. The batch is
    answered whole or refused whole; every image is charged, as under /v1 and to the same budget. A request repeated
    under the same `Idempotency-Key` gets the same answer and is charged once, whichever protocol it came by.
    """
    return await _infer(request, server, Asked(key, name, None, headers.idempotency_key), headers.json_length)


@router.post("/v2/models/{name}/versions/{version:path}/infer", summary="Buy the answer of one version", **_INFER)
async def infer_by_version(
    name: str, version: str, request: Request, key: Caller, server: CurrentServer, headers: Headers
) -> Response:
    """The same, answered by this version or not at all."""
    return await _infer(request, server, Asked(key, name, version, headers.idempotency_key), headers.json_length)


@router.get(
    "/v2/models/{name}/versions/{version:path}", summary="One version of it", responses=plain_errors(*_READING)
)
async def version_metadata(name: str, version: str, key: Caller, server: CurrentServer) -> ModelMetadata:
    """The same of one version."""
    if version.endswith("/infer") and server.catalogue.find(name, version) is None:
        raise HTTPException(405, headers={"Allow": "POST"})  # the other address, which takes purchases only
    return _metadata(server.labelling.teacher(name, version), key.disclosure, server)


async def _infer(request: Request, server: Server, asked: Asked, json_length: str | None) -> Response:
    settings = server.settings
    require_media_type(request, _MEDIA_TYPES)
    encoding = require_encoding(request, ENCODINGS)
    # Looked up once, for what is asked of it before anything is charged; a version no longer served may still have
    # answered this idempotency key.
    teacher = server.catalogue.find(asked.name, asked.version)
    spec = teacher.input if teacher else None

    def parse(content: bytes) -> tuple[Body, WantedForm]:
        plain = decompress(content, encoding, settings.body_bytes_max)
        return parse_request(plain, json_length, spec, images_max=settings.images_per_request_max)

    async with admitted(server, asked):
        content = await read_bytes(request, settings, ENCODINGS)
        body, form = await anyio.to_thread.run_sync(parse, content, limiter=server.parsing_threads)
        if teacher:
            require_visible(form, asked.key.disclosure, len(teacher.class_names))
        answered = await answer(request, server, asked, body)
    return infer_response(answered, form, _class_names(server, answered.event.teacher, answered.event.version))


def _class_names(server: Server, name: str, version: str) -> tuple[str, ...]:
    teacher = server.catalogue.find(name, version)
    return teacher.class_names if teacher else ()


async def _model_ready(name: str, version: str | None, key: Key, server: Server) -> ModelReady:
    server.labelling.teacher(name, version)
    await anyio.to_thread.run_sync(server.ledger.check_writable)
    server.consistency.require_consistent(key.id)
    return ModelReady(name=name, ready=True)


def _metadata(teacher: Teacher, disclosure: Disclosure, server: Server) -> ModelMetadata:
    spec, classes = teacher.input, len(teacher.class_names)
    image = TensorMetadata(
        name=INPUT_NAME,
        datatype="UINT8",
        shape=[-1, spec.height, spec.width, spec.channels],
        parameters={
            "also": "FP32 of that shape, pixels / 255 from 0 to 1, quantised to UINT8 before anything else; "
            "BYTES [-1] or [-1, 1], each a PNG, JPEG or WebP file (in JSON its base64)"
        },
    )
    told = {"disclosure": str(disclosure), "classes": json.dumps(teacher.class_names)}
    if disclosure.kind == "label":
        output = TensorMetadata(name=LABELS, datatype="INT64", shape=[-1], parameters=told)
    else:
        if disclosure.kind == "top-k":
            told["not_disclosed"] = "NaN, in JSON null"
        output = TensorMetadata(name=PROBABILITIES, datatype="FP32", shape=[-1, classes], parameters=told)
    return ModelMetadata(
        name=teacher.name,
        versions=server.catalogue.versions(teacher.name),
        platform="teacher",
        inputs=[image],
        outputs=[output],
    )
