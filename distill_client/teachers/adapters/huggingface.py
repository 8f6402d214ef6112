"""Hugging Face's image classification: one image file in, labels with scores out, sorted.

Inference Providers and Endpoints give at most ``top_k`` classes (5 where it is not said). An Endpoint answers 400 to
whatever went wrong, its own faults too; a model that is being loaded is 503 with the seconds it will take.
"""

import base64
import json
from collections.abc import Mapping
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from distill_client.errors import TeacherProtocolError
from distill_client.teachers.adapters.json_reply import read_json, shown
from distill_client.teachers.adapters.scores import (
    arrange_by_name,
    distributions_of,
    named_scores,
    require_all_named,
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
from distill_client.teachers.protocol import Answer, Capabilities
from distill_client.teachers.teacher_file import TeacherFile
from distill_client.teachers.transport import HttpReply, HttpRequest
from shared.wire.contracts import Disclosure

# An Endpoint's own faults, told from those of the image by what its libraries say.
_OWN_FAULTS = (
    r"(?i)out of memory|\bCUDA\b|timed? ?out|temporarily|connection (reset|refused|aborted)|too many open files"
)
_SIGNALS = (Signal(meaning="unknown_outcome", status=(400,), body=_OWN_FAULTS, charged="unknown"),)


class HuggingFaceFile(TeacherFile):
    """``url`` is the model's own address, such as https://router.huggingface.co/hf-inference/models/OWNER/MODEL."""

    kind: Literal["huggingface"]
    encoding: FileForm = "png"
    body: Literal["json", "file"] = Field(
        "json", description="base64 with parameters, or the file alone, to which at most 5 classes are answered"
    )
    function_to_apply: Literal["softmax", "sigmoid", "none"] | None = Field(
        None, description="what the pipeline does with its logits; none: it gives logits, and softmax is done here"
    )

    @model_validator(mode="after")
    def _says_what_can_be_asked(self) -> Self:
        disclosed = Disclosure.parse(self.answers)
        if self.function_to_apply and self.body == "file":
            raise ValueError("function_to_apply needs body = 'json': a file carries no parameters")
        if self.function_to_apply == "none" and disclosed.kind == "top-k":
            raise ValueError(f"function_to_apply is none and answers is {self.answers!r}; logits need all classes")
        return self


class HuggingFaceAdapter:
    """Satisfies ``Adapter``."""

    def __init__(self, file: HuggingFaceFile) -> None:
        self._file = file
        self._discloses = Disclosure.parse(file.answers).kind
        size = file_bytes_max(file.sent_hwc)
        images_that_fit(file, base64_bytes(size) if file.body == "json" else size)
        self.capabilities: Capabilities = file.capabilities(file.encoding, images_per_request_max=1)

    def first_look(self) -> HttpRequest | None:
        """See Adapter: there is none that is free."""
        return None

    def read_first_look(self, reply: HttpReply) -> None:
        """See Adapter."""

    def request(self, images_nhwc: NDArray[np.uint8], idempotency_key: str) -> HttpRequest:
        """See Adapter."""
        content = encode_image(images_nhwc[0], self._file.encoding)
        headers = {"Accept": "application/json", "Idempotency-Key": idempotency_key}
        if self._file.body == "file":
            return HttpRequest(
                "POST", self._file.url, {**headers, "Content-Type": MEDIA_TYPES[self._file.encoding]}, content
            )
        parameters: dict[str, Any] = {"top_k": self._top_k()}
        if self._file.function_to_apply:
            parameters["function_to_apply"] = self._file.function_to_apply
        body = json.dumps({"inputs": base64.b64encode(content).decode("ascii"), "parameters": parameters})
        headers["Content-Type"] = "application/json"
        return HttpRequest("POST", self._file.url, headers, body.encode("ascii"))

    def read(self, reply: HttpReply, images: int) -> Answer:
        """See Adapter."""
        if not reply.is_success:
            raise failure_of(reply, _SIGNALS)
        scores = _scores(reply, self._file)
        require_all_named([scores], self._file)
        are_logits = self._file.function_to_apply == "none" and self._discloses != "label"
        values = distributions_of(arrange_by_name([scores], self._file), self._file, are_logits=are_logits)
        return Answer(values, self._file.version, self._file.answers, charged=images)

    def _top_k(self) -> int:
        disclosed, classes = Disclosure.parse(self._file.answers), len(self._file.classes)
        return min({"label": 1, "top-k": disclosed.k}.get(disclosed.kind, classes), classes)


def _scores(reply: HttpReply, file: HuggingFaceFile) -> Mapping[str, float]:
    found = read_json(reply)
    if not isinstance(found, list) or not all(isinstance(each, dict) for each in found):
        raise TeacherProtocolError(f"{reply.url}: the answer is not a list of labels and scores: {shown(found)}")
    if Disclosure.parse(file.answers).kind == "label":  # the best is the first, and its score need not be disclosed
        return named_scores(reply.url, ((each.get("label"), 1.0) for each in found[:1]), file)
    return named_scores(reply.url, ((each.get("label"), each.get("score")) for each in found), file)
