"""Hugging Face's image classification: one image file in, labels with scores out, sorted.

Inference Providers and Endpoints give at most ``top_k`` classes (5 where it is not said). An Endpoint answers 400 to
whatever went wrong, its own faults too.
"""

import base64
import json
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, TypeAdapter, ValidationError

from distill_client.errors import TeacherProtocolError
from distill_client.teachers.adapters.scores import probabilities_of
from distill_client.teachers.encoding import FileForm, encode_image
from distill_client.teachers.manners.signals import failure_of
from distill_client.teachers.protocol import Answer, Capabilities
from distill_client.teachers.teacher_file import TeacherFile
from distill_client.teachers.transport import HttpReply, HttpRequest


class HuggingFaceFile(TeacherFile):
    """``url`` is the model's own address, such as https://router.huggingface.co/hf-inference/models/OWNER/MODEL."""

    kind: Literal["huggingface"]
    encoding: FileForm = "png"


class _Score(BaseModel):
    label: str
    score: float


_SCORES = TypeAdapter(list[_Score])


class HuggingFaceAdapter:
    """Satisfies ``Adapter``."""

    def __init__(self, file: HuggingFaceFile) -> None:
        self._file = file
        self.capabilities: Capabilities = file.capabilities(file.encoding, images_per_request_max=1)

    def first_look(self) -> HttpRequest | None:
        """See Adapter: there is none that is free."""
        return None

    def read_first_look(self, reply: HttpReply) -> None:
        """See Adapter."""

    def request(self, images_nhwc: NDArray[np.uint8], idempotency_key: str) -> HttpRequest:
        """See Adapter."""
        content = base64.b64encode(encode_image(images_nhwc[0], self._file.encoding)).decode("ascii")
        body = {"inputs": content, "parameters": {"top_k": len(self._file.classes)}}
        headers = {"Content-Type": "application/json", "Idempotency-Key": idempotency_key}
        return HttpRequest("POST", self._file.url, headers, json.dumps(body).encode("ascii"))

    def read(self, reply: HttpReply, images: int) -> Answer:
        """See Adapter."""
        if not reply.is_success:
            raise failure_of(reply)
        try:
            scores = {each.label: each.score for each in _SCORES.validate_json(reply.content)}
        except ValidationError as error:
            raise TeacherProtocolError(f"{reply.url}: not a list of labels and scores: {error}") from error
        values = probabilities_of([scores], self._file)
        return Answer(values, self._file.version, self._file.answers, charged=images)
