"""A charged answer as this protocol writes it. Rendered from what is stored, and from how it was asked for."""

import json
from typing import Any

import numpy as np
from fastapi import Response

from teacher_server.api.open_inference.documents import HEADER_JSON_LENGTH, LABELS, PROBABILITIES
from teacher_server.api.open_inference.requests import WantedForm
from teacher_server.api.purchase import answer_headers, encoded_receipt, ranked, rounded
from teacher_server.ledger.charging.answers import Answered

QUANTISED = "FP32 to UINT8: 255 x, rounded half to even"
_UNKNOWN = float("nan")


def infer_response(answered: Answered, form: WantedForm, class_names: tuple[str, ...]) -> Response:
    """JSON, or JSON and then the output as binary. ``class_names`` may be empty where they are not known any more."""
    event = answered.event
    output, binary = _output(answered, form, class_names)
    content: dict[str, Any] = {
        "model_name": event.teacher,
        "model_version": event.version,
        **({"id": form.id} if form.id else {}),
        "parameters": _parameters(answered, form),
        "outputs": [output],
    }
    document = json.dumps(content, separators=(",", ":")).encode("ascii")
    headers = answer_headers(answered)
    if binary is None:
        return Response(document, media_type="application/json", headers=headers)
    headers[HEADER_JSON_LENGTH] = str(len(document))
    return Response(document + binary, media_type="application/octet-stream", headers=headers)


def _parameters(answered: Answered, form: WantedForm) -> dict[str, str | int]:
    """What /v1 says beside an answer, for clients that show no headers."""
    event = answered.event
    told: dict[str, str | int] = {
        "request_id": answered.request_id,
        "idempotency_key": event.idempotency_key,
        "disclosure": event.disclosure,
        "charged": event.images,
        "spent": event.spent,
        "remaining": answered.remaining,
        "event_sequence": event.sequence,
        "event_hash": event.hash,
    }
    if receipt := encoded_receipt(answered):
        told["receipt"] = receipt
    if form.is_quantised:
        told["input_quantised"] = QUANTISED
    return told


def _output(
    answered: Answered, form: WantedForm, class_names: tuple[str, ...]
) -> tuple[dict[str, Any], bytes | None]:
    """The output's document and, where it is wanted as binary, its bytes."""
    values = answered.disclosed
    name = LABELS if values.dtype.kind == "i" else PROBABILITIES
    if form.classification:
        rows = _ranked_classes(answered, form.classification, class_names)
        shape = [len(rows), len(rows[0])]
        entries = [entry for row in rows for entry in row]
        encoded = b"".join(len(raw).to_bytes(4, "little") + raw for raw in map(str.encode, entries))
        return _tensor(name, "BYTES", shape, entries, encoded, form)
    if values.dtype.kind == "i":
        return _tensor(name, "INT64", list(values.shape), values.tolist(), values.astype("<i8").tobytes(), form)
    # NaN, "not disclosed", is no JSON: null there, which tritonclient reads as NaN.
    flat = [None if np.isnan(value) else value for value in rounded(values).ravel().tolist()]  # type: ignore[arg-type]  # float32
    return _tensor(name, "FP32", list(values.shape), flat, values.astype("<f4").tobytes(), form)


def _tensor(
    name: str, datatype: str, shape: list[int], data: list[Any], encoded: bytes, form: WantedForm
) -> tuple[dict[str, Any], bytes | None]:
    document: dict[str, Any] = {"name": name, "datatype": datatype, "shape": shape}
    if form.as_binary:
        return document | {"parameters": {"binary_data_size": len(encoded)}}, encoded
    return document | {"data": data}, None


def _ranked_classes(answered: Answered, count: int, class_names: tuple[str, ...]) -> list[list[str]]:
    """``value:index[:label]`` of the most probable classes of each image; nan is the value of what is not disclosed.

    Never more than are disclosed: an answer bought under another policy may hold fewer than the key may see now.
    """
    values = answered.disclosed
    if values.dtype.kind == "i":
        return [[_entry(_UNKNOWN, int(label), class_names)] for label in values]
    rows = rounded(values)  # type: ignore[arg-type]  # float32
    return [[_entry(float(row[at]), int(at), class_names) for at in ranked(row)[:count]] for row in rows]


def _entry(value: float, index: int, class_names: tuple[str, ...]) -> str:
    label = f":{class_names[index]}" if index < len(class_names) else ""
    return f"{value:.6f}:{index}{label}"
