"""TensorFlow Serving's REST API: ``:predict`` with encoded images or arrays, or ``:classify``; a batch a call."""

import base64
import json
import math
from typing import Any, Literal, Self
from urllib.parse import quote

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from distill_client.errors import TeacherProtocolError
from distill_client.teachers.adapters.input_tensors import TensorTeacherFile
from distill_client.teachers.adapters.json_reply import member, read_json, read_numbers, shown
from distill_client.teachers.adapters.scores import (
    arrange_by_name,
    class_by_number,
    distributions_of,
    named_scores,
    require_all_named,
    require_some_number,
)
from distill_client.teachers.encoding import base64_bytes, encode_image, file_bytes_max, images_that_fit
from distill_client.teachers.manners.patience import Retryable
from distill_client.teachers.manners.signals import failure_of
from distill_client.teachers.protocol import Answer, Capabilities, InputForm, Values
from distill_client.teachers.transport import HttpReply, HttpRequest
from shared.wire.contracts import Disclosure


class TfServingFile(TensorTeacherFile):
    """``url`` is what comes before /v1, such as http://HOST:8501."""

    kind: Literal["tf-serving"]
    model: str = Field(pattern=r"^[^/?#:\s]+$", description="its name at the server")
    model_version: int | None = Field(None, ge=0, description="if not the server's default")
    method: Literal["predict", "classify"] = "predict"
    signature_name: str | None = Field(None, description="if not the model's default")
    input: Literal["b64", "UINT8", "FP32"] = Field("b64", description="encoded files, bytes, or scaled numbers")
    input_name: str | None = Field(None, description="needed where the signature has several inputs, or for classify")
    output_name: str | None = Field(None, description="needed where the signature has several outputs")
    output: Literal["probabilities", "logits", "label"] = "probabilities"

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        kind = Disclosure.parse(self.answers).kind
        if self.method == "classify" and (self.input != "b64" or self.output != "probabilities"):
            raise ValueError("method is classify, which takes input = 'b64' and gives output = 'probabilities'")
        if self.output == "label" and kind != "label":
            raise ValueError(f"output is label and answers is {self.answers!r}; allowed is label")
        if self.output == "logits" and kind == "top-k":
            raise ValueError(f"output is logits and answers is {self.answers!r}; allowed are probabilities and label")
        return self


class TfServingAdapter:
    """Satisfies ``Adapter``. Its first look is the model's status, which is free."""

    def __init__(self, file: TfServingFile) -> None:
        self._file = file
        numbers = math.prod(file.sent_hwc)
        forms: dict[str, tuple[InputForm, str, int]] = {
            "b64": (
                file.encoding,
                f"{file.enlarging}sent as {file.encoding}",
                base64_bytes(file_bytes_max(file.sent_hwc)) + 64,
            ),
            "UINT8": ("uint8", f"{file.enlarging}sent as uint8, {file.layout}", 8 * numbers),
            "FP32": ("fp32", f"{file.enlarging}sent as float32, {file.scaling}", 30 * numbers),
        }
        form, preprocessing, image_bytes = forms[file.input]
        self.capabilities: Capabilities = file.capabilities(
            form, preprocessing=preprocessing, images_per_request_max=images_that_fit(file, image_bytes)
        )
        version = "" if file.model_version is None else f"/versions/{file.model_version}"
        self._address = f"{file.url.rstrip('/')}/v1/models/{quote(file.model)}{version}"

    def first_look(self) -> HttpRequest | None:
        """See Adapter: the model's status."""
        return HttpRequest("GET", self._address, {"Accept": "application/json"})

    def read_first_look(self, reply: HttpReply) -> None:
        """See Adapter; a model that is still being loaded is asked for again."""
        if not reply.is_success:
            raise failure_of(reply)
        found = member(reply, read_json(reply), "model_version_status")
        states = [each.get("state") for each in found if isinstance(each, dict)] if isinstance(found, list) else []
        if "AVAILABLE" not in states:
            raise Retryable(
                f"{reply.url}: no version of the model is available: {shown(found)}", pressure="overloaded"
            )

    def request(self, images_nhwc: NDArray[np.uint8], idempotency_key: str) -> HttpRequest:
        """See Adapter."""
        file = self._file
        inputs: list[Any]
        if file.input == "b64":
            files = (encode_image(image_hwc, file.encoding) for image_hwc in images_nhwc)
            inputs = [{"b64": base64.b64encode(content).decode("ascii")} for content in files]
        else:
            inputs = (
                file.as_bytes(images_nhwc) if file.input == "UINT8" else file.as_fractions(images_nhwc)
            ).tolist()
        body: dict[str, Any] = {"signature_name": file.signature_name} if file.signature_name else {}
        if file.method == "classify":
            body["examples"] = [{file.input_name or "image": each} for each in inputs]
        else:
            body["instances"] = [{file.input_name: each} for each in inputs] if file.input_name else inputs
        headers = {"Content-Type": "application/json", "Idempotency-Key": idempotency_key}
        content = json.dumps(body, separators=(",", ":")).encode()
        return HttpRequest("POST", f"{self._address}:{file.method}", headers, content)

    def read(self, reply: HttpReply, images: int) -> Answer:
        """See Adapter; a batch is answered whole or not at all."""
        if not reply.is_success:
            raise failure_of(reply)
        key = "result" if self._file.method == "classify" else "predictions"
        rows = member(reply, read_json(reply), key)
        if not isinstance(rows, list) or len(rows) != images:
            raise TeacherProtocolError(f"{reply.url}: {images} images were asked, and {key} is {shown(rows)}")
        values = self._ranked(reply, rows) if self._file.method == "classify" else self._predicted(reply, rows)
        return Answer(values, self._file.version, self._file.answers, charged=images)

    def _predicted(self, reply: HttpReply, rows: list[Any]) -> Values:
        file = self._file
        if file.output_name is not None:
            rows = [member(reply, row, file.output_name) for row in rows]
        elif any(isinstance(row, dict) for row in rows):
            raise TeacherProtocolError(
                f"{reply.url}: there are several outputs; output_name must be one: {shown(rows)}"
            )
        if file.output == "label" and all(isinstance(row, str) for row in rows):
            return distributions_of(arrange_by_name([{class_by_number(row, file): 1.0} for row in rows], file), file)
        found = read_numbers(f"{reply.url}: predictions", rows)
        if file.output == "label":
            return labels_of(found, file)
        if found.size != len(rows) * len(file.classes):
            raise TeacherProtocolError(
                f"{reply.url}: predictions have shape {list(found.shape)}, for {len(file.classes)} classes"
            )
        found_nk = require_some_number(found.reshape(len(rows), len(file.classes)))
        return distributions_of(found_nk, file, are_logits=file.output == "logits")

    def _ranked(self, reply: HttpReply, rows: list[Any]) -> Values:
        """Rows of [label, score]; a model without names gives its classes' places."""
        scores = [named_scores(reply.url, _pairs(reply, row), self._file) for row in rows]
        require_all_named(scores, self._file)
        return distributions_of(arrange_by_name(scores, self._file), self._file)


def labels_of(found: NDArray[np.float64], file: TensorTeacherFile) -> Values:
    """One class's place for each image, N or N x 1. Raises TeacherProtocolError for what is no place."""
    if found.size != len(found) or not np.isin(found, np.arange(len(file.classes))).all():
        raise TeacherProtocolError(f"the teacher gave labels {shown(found.tolist())} of {len(file.classes)} classes")
    return found.reshape(-1).astype(np.int64)


def _pairs(reply: HttpReply, row: Any) -> list[tuple[object, object]]:
    if not isinstance(row, list) or not all(isinstance(entry, list) and len(entry) == 2 for entry in row):
        raise TeacherProtocolError(f"{reply.url}: expected rows of [label, score], got {shown(row)}")
    return [(entry[0], entry[1]) for entry in row]
