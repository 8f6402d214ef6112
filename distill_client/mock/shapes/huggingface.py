"""Hugging Face's image classification, as its inference toolkit answers."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from distill_client.mock.shapes.shape import NAME, Reply, Request, Shape, Unreadable

_PATH = f"/models/{NAME}"
_TOP_K = 5


class HuggingFaceShape(Shape):
    """One image a call, as a file or as base64 in JSON; a sorted list of labels and scores."""

    images_per_call_max = 1

    def takes(self, path: str) -> bool:
        """See Shape."""
        return path in (_PATH, "/")

    def read(self, request: Request) -> NDArray[np.uint8]:
        """See Shape."""
        if not request.headers.get("content-type", "").startswith("application/json"):
            return self.decoded(request.content)[np.newaxis]
        return self.decoded_base64(request.json().get("inputs"))[np.newaxis]

    def render(self, request: Request, probabilities_nk: NDArray[np.float32], failed: Sequence[int]) -> Reply:
        """See Shape."""
        top_k: object = _TOP_K
        if request.headers.get("content-type", "").startswith("application/json"):
            parameters = request.json().get("parameters") or {}
            top_k = parameters.get("top_k", _TOP_K) if isinstance(parameters, dict) else _TOP_K
        if not isinstance(top_k, int):
            raise Unreadable("top_k is no number")
        return Reply.of([{"label": name, "score": score} for name, score in self.ranked(probabilities_nk[0])[:top_k]])

    def refuse(self, status: int, message: str) -> Reply:
        """See Shape."""
        return Reply.of({"error": message}, status)

    def teacher_keys(self, url: str) -> str:
        """See Shape."""
        return f'kind = "huggingface"\nurl = "{url}{_PATH}"\n'
