"""A cloud's vision API in the shape of Google's ``images:annotate``: a batch a call, and errors for single images."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from distill_client.mock.shapes.shape import Reply, Request, Shape, Unreadable

_PATH = "/v1/images:annotate"
_STATUSES = {400: "INVALID_ARGUMENT", 429: "RESOURCE_EXHAUSTED", 503: "UNAVAILABLE"}
_UNAVAILABLE = 14  # google.rpc.Code


class VisionShape(Shape):
    """Described to the client by custom-http."""

    takes_partial = True

    def takes(self, path: str) -> bool:
        """See Shape."""
        return path == _PATH

    def read(self, request: Request) -> NDArray[np.uint8]:
        """See Shape."""
        asked = request.json().get("requests")
        try:
            return self.stacked([self.decoded_base64(each["image"]["content"]) for each in asked or []])
        except (KeyError, TypeError) as error:
            raise Unreadable('expected "requests": [{"image": {"content": BASE64}, ...}, ...]') from error

    def render(self, request: Request, probabilities_nk: NDArray[np.float32], failed: Sequence[int]) -> Reply:
        """See Shape."""
        responses: list[dict[str, object]] = []
        for place, row_k in enumerate(probabilities_nk):
            if place in failed:
                responses.append({"error": {"code": _UNAVAILABLE, "message": "try this image again"}})
            else:
                named = [{"description": name, "score": score} for name, score in self.ranked(row_k)]
                responses.append({"labelAnnotations": named})
        return Reply.of({"responses": responses})

    def refuse(self, status: int, message: str) -> Reply:
        """See Shape."""
        error = {"code": status, "message": message, "status": _STATUSES.get(status, "UNKNOWN")}
        return Reply.of({"error": error}, status)

    def teacher_keys(self, url: str) -> str:
        """See Shape."""
        return f"""kind = "custom-http"
url = "{url}{_PATH}"
images_per_call = {self.mocked.images_per_call}

[request]
template = {{ requests = "{{images}}" }}
each = {{ image = {{ content = "{{image_base64}}" }}, features = [{{ type = "LABEL_DETECTION" }}] }}

[reply]
images = "responses"
rows = "labelAnnotations"
label = "description"
score = "score"
error = "error"
item_signals = [{{ pattern = "try this image again", retryable = true, charged = "no" }}]
"""
