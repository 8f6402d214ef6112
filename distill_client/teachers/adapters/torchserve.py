"""TorchServe: one image file a call to /predictions, or a batch in KServe's first protocol.

Its image classifier gives the five most probable classes unless its owner has changed that.
"""

import base64
import json
from typing import Any, Literal, Self
from urllib.parse import quote

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from distill_client.errors import TeacherProtocolError
from distill_client.teachers.adapters.json_reply import member, read_json, read_numbers, shown
from distill_client.teachers.adapters.scores import (
    arrange_by_name,
    distributions_of,
    named_scores,
    require_all_named,
    require_some_number,
)
from distill_client.teachers.encoding import (
    MEDIA_TYPES,
    FileForm,
    base64_bytes,
    encode_image,
    file_bytes_max,
    images_that_fit,
)
from distill_client.teachers.manners.signals import Signal, failure_of
from distill_client.teachers.protocol import Answer, Capabilities, Values
from distill_client.teachers.teacher_file import TeacherFile
from distill_client.teachers.transport import HttpReply, HttpRequest

# An answer that is too long was computed, and will be as long again.
_SIGNALS = (Signal(meaning="bad_request", status=(507,), charged="unknown"),)


class TorchServeFile(TeacherFile):
    """``url`` is the inference address, such as http://HOST:8080."""

    kind: Literal["torchserve"]
    model: str = Field(pattern=r"^[^/?#:\s]+$", description="its name at the server")
    model_version: str | None = Field(None, pattern=r"^[^/?#\s]+$", description="if not the server's default")
    protocol: Literal["predictions", "kserve-v1"] = "predictions"
    encoding: FileForm = "png"
    answers: str = Field("top-k:5", description="probabilities, top-k:K or label; its own classifier gives five")

    @model_validator(mode="after")
    def _one_image_for_predictions(self) -> Self:
        if self.protocol == "predictions" and self.images_per_call != 1:
            raise ValueError(f"images_per_call is {self.images_per_call}; protocol predictions takes 1")
        if self.protocol == "kserve-v1" and self.model_version is not None:
            raise ValueError("model_version is given; protocol kserve-v1 asks for the default version only")
        return self


class TorchServeAdapter:
    """Satisfies ``Adapter``. Its first look is the server's health, which is free."""

    def __init__(self, file: TorchServeFile) -> None:
        self._file = file
        self._url = file.url.rstrip("/")
        size = file_bytes_max(file.sent_hwc)
        is_batch = file.protocol == "kserve-v1"
        fitting = images_that_fit(file, base64_bytes(size) + 16 if is_batch else size)
        self.capabilities: Capabilities = file.capabilities(file.encoding, images_per_request_max=fitting)

    def first_look(self) -> HttpRequest | None:
        """See Adapter."""
        return HttpRequest("GET", f"{self._url}/ping", {"Accept": "application/json"})

    def read_first_look(self, reply: HttpReply) -> None:
        """See Adapter; KServe's server in front of it may have no such address."""
        if not reply.is_success and not (reply.status == 404 and self._file.protocol == "kserve-v1"):
            raise failure_of(reply, _SIGNALS)

    def request(self, images_nhwc: NDArray[np.uint8], idempotency_key: str) -> HttpRequest:
        """See Adapter."""
        file = self._file
        headers = {"Accept": "application/json", "Idempotency-Key": idempotency_key}
        if file.protocol == "predictions":
            version = f"/{quote(file.model_version)}" if file.model_version else ""
            return HttpRequest(
                "POST",
                f"{self._url}/predictions/{quote(file.model)}{version}",
                {**headers, "Content-Type": MEDIA_TYPES[file.encoding]},
                encode_image(images_nhwc[0], file.encoding),
            )
        encoded = (base64.b64encode(encode_image(image_hwc, file.encoding)) for image_hwc in images_nhwc)
        body = {"instances": [{"data": content.decode("ascii")} for content in encoded]}
        headers["Content-Type"] = "application/json"
        address = f"{self._url}/v1/models/{quote(file.model)}:predict"
        return HttpRequest("POST", address, headers, json.dumps(body, separators=(",", ":")).encode("ascii"))

    def read(self, reply: HttpReply, images: int) -> Answer:
        """See Adapter."""
        if not reply.is_success:
            raise failure_of(reply, _SIGNALS)
        document = read_json(reply)
        rows = [document] if self._file.protocol == "predictions" else member(reply, document, "predictions")
        if not isinstance(rows, list) or len(rows) != images:
            raise TeacherProtocolError(f"{reply.url}: {images} images were asked, and the answer is {shown(rows)}")
        return Answer(self._values(reply, rows), self._file.version, self._file.answers, charged=images)

    def _values(self, reply: HttpReply, rows: list[Any]) -> Values:
        """A map from names, or places, to scores for each image; a handler of somebody's own may give lists."""
        file = self._file
        if not any(isinstance(row, dict) for row in rows):
            found = read_numbers(f"{reply.url}: predictions", rows)
            if found.shape != (len(rows), len(file.classes)):
                raise TeacherProtocolError(
                    f"{reply.url}: {len(file.classes)} scores an image expected: {shown(rows)}"
                )
            return distributions_of(require_some_number(found), file)
        scores: list[dict[str, float]] = []
        for row in rows:
            if not isinstance(row, dict):
                raise TeacherProtocolError(f"{reply.url}: expected scores by name, got {shown(row)}")
            scores.append(named_scores(reply.url, row.items(), file))
        require_all_named(scores, file)
        return distributions_of(arrange_by_name(scores, file), file)
