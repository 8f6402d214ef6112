"""Tensors as the Open Inference Protocol v2 writes them: in JSON, or as bytes after it."""

import base64
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distill_client.errors import TeacherProtocolError
from distill_client.teachers.adapters.json_reply import member, read_json, read_numbers, shown
from distill_client.teachers.transport import HttpReply

HEADER_JSON_LENGTH = "Inference-Header-Content-Length"
_DTYPES = {
    **{f"UINT{8 * size}": np.dtype(f"<u{size}") for size in (1, 2, 4, 8)},
    **{f"INT{8 * size}": np.dtype(f"<i{size}") for size in (1, 2, 4, 8)},
    **{f"FP{8 * size}": np.dtype(f"<f{size}") for size in (2, 4, 8)},
}
_TEXTS = ("BYTES", "STRING")
_LENGTH_BYTES = 4

Elements = NDArray[np.float64] | list[str]


@dataclass(frozen=True)
class Tensor:
    """An output: its extents, and its elements in row-major order; texts where its datatype is BYTES or STRING."""

    name: str
    shape: tuple[int, ...]
    elements: Elements


def write_infer(  # noqa: PLR0913 - what the document holds
    name: str,
    datatype: str,
    values: NDArray[Any] | Sequence[bytes],
    *,
    shape: Sequence[int],
    output: dict[str, Any],
    binary: bool,
    request_id: str,
) -> tuple[dict[str, str], bytes]:
    """Headers and body of a request with one input; ``values`` are an array, or files where the datatype is BYTES.

    BYTES in JSON are base64, since it holds no bytes; ``content_type`` says so to those who look for it. KServe's
    models fail without an id.
    """
    tensor: dict[str, Any] = {"name": name, "shape": list(shape), "datatype": datatype}
    if not binary:
        if isinstance(values, np.ndarray):
            tensor["data"] = values.ravel().tolist()
        else:
            tensor["parameters"] = {"content_type": "base64"}
            tensor["data"] = [base64.b64encode(each).decode("ascii") for each in values]
        document = {"id": request_id, "inputs": [tensor], "outputs": [output]}
        return {"Content-Type": "application/json"}, json.dumps(document, separators=(",", ":")).encode("ascii")
    if isinstance(values, np.ndarray):
        raw = np.ascontiguousarray(values).astype(values.dtype.newbyteorder("<"), copy=False).tobytes()
    else:
        raw = b"".join(len(each).to_bytes(_LENGTH_BYTES, "little") + each for each in values)
    tensor["parameters"] = {"binary_data_size": len(raw)}
    wanted = {**output, "parameters": {**output.get("parameters", {}), "binary_data": True}}
    document = {"id": request_id, "inputs": [tensor], "outputs": [wanted]}
    head = json.dumps(document, separators=(",", ":")).encode("ascii")
    headers = {"Content-Type": "application/octet-stream", HEADER_JSON_LENGTH: str(len(head))}
    return headers, head + raw


def read_infer(reply: HttpReply) -> tuple[dict[str, Any], list[Tensor]]:
    """The reply's document and its outputs. Raises TeacherProtocolError."""
    length = reply.headers.get(HEADER_JSON_LENGTH, "")
    if length and not (length.isascii() and length.isdecimal() and int(length[:18]) <= len(reply.content)):
        raise TeacherProtocolError(
            f"{reply.url}: {HEADER_JSON_LENGTH} is {shown(length)}, of a body of {len(reply.content)} bytes"
        )
    end = int(length[:18]) if length else len(reply.content)
    document = read_json(reply, reply.content[:end])
    outputs = member(reply, document, "outputs")
    if not isinstance(outputs, list) or not outputs:
        raise TeacherProtocolError(f"{reply.url}: outputs is {shown(outputs)}; expected a list of tensors")
    tensors, at = [], end
    for output in outputs:
        shape, datatype = _shape(reply, output), member(reply, output, "datatype")
        parameters = output.get("parameters") or {}
        size = parameters.get("binary_data_size") if isinstance(parameters, dict) else None
        where = f"{reply.url}: output {shown(output.get('name'))}"
        if size is None:
            elements = _from_json(where, datatype, member(reply, output, "data"))
        else:
            if type(size) is not int or not 0 <= size <= len(reply.content) - at:
                raise TeacherProtocolError(f"{where}: binary_data_size is {shown(size)}, beyond the body's end")
            elements = _from_bytes(where, datatype, reply.content[at : at + size])
            at += size
        if len(elements) != math.prod(shape):
            raise TeacherProtocolError(f"{where} has shape {list(shape)} and {len(elements)} elements")
        tensors.append(Tensor(str(output.get("name")), shape, elements))
    return document, tensors


def _shape(reply: HttpReply, output: object) -> tuple[int, ...]:
    shape = member(reply, output, "shape")
    if not isinstance(shape, list) or not all(type(extent) is int and extent >= 0 for extent in shape):
        raise TeacherProtocolError(f"{reply.url}: an output's shape is {shown(shape)}; expected a list of extents")
    return tuple(shape)


def _from_json(where: str, datatype: object, data: object) -> Elements:
    if datatype in _TEXTS:
        texts: NDArray[np.object_] = np.array(data, dtype=object).ravel()
        if not all(isinstance(text, str) for text in texts):
            raise TeacherProtocolError(f"{where} holds no texts: {shown(data)}")
        return texts.tolist()  # type: ignore[no-any-return]  # checked above
    _dtype(where, datatype)
    return read_numbers(where, data, null_is_nan=True).ravel()


def _from_bytes(where: str, datatype: object, raw: bytes) -> Elements:
    if datatype not in _TEXTS:
        dtype = _dtype(where, datatype)
        if len(raw) % dtype.itemsize:
            raise TeacherProtocolError(f"{where}: {len(raw)} bytes are no whole number of {datatype}")
        return np.frombuffer(raw, dtype).astype(np.float64)
    texts: list[str] = []
    at = 0
    while at < len(raw):
        start = at + _LENGTH_BYTES
        end = start + int.from_bytes(raw[at:start], "little")
        if end > len(raw):
            raise TeacherProtocolError(f"{where}: text {len(texts)} goes to byte {end} of {len(raw)}")
        texts.append(raw[start:end].decode("utf-8", errors="replace"))
        at = end
    return texts


def _dtype(where: str, datatype: object) -> np.dtype[Any]:
    if not isinstance(datatype, str) or datatype not in _DTYPES:
        raise TeacherProtocolError(
            f"{where}: datatype is {shown(datatype)}; read are {', '.join((*_DTYPES, *_TEXTS))}"
        )
    return _DTYPES[datatype]
