"""TensorFlow Serving's REST API: ``:predict`` with base64 files."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from distill_client.mock.shapes.shape import NAME, Reply, Request, Shape, Unreadable

_MODEL = f"/v1/models/{NAME}"


class TfServingShape(Shape):
    """A batch a call, answered whole."""

    def look(self, path: str) -> Reply | None:
        """See Shape: the model's status."""
        if path != _MODEL:
            return None
        status = {"version": "1", "state": "AVAILABLE", "status": {"error_code": "OK", "error_message": ""}}
        return Reply.of({"model_version_status": [status]})

    def takes(self, path: str) -> bool:
        """See Shape."""
        return path == f"{_MODEL}:predict"

    def read(self, request: Request) -> NDArray[np.uint8]:
        """See Shape."""
        instances = request.json().get("instances")
        if not isinstance(instances, list) or not all(isinstance(each, dict) for each in instances):
            raise Unreadable("Missing 'instances': [{\"b64\": ...}, ...]")
        return self.stacked([self.decoded_base64(each.get("b64")) for each in instances])

    def render(self, request: Request, probabilities_nk: NDArray[np.float32], failed: Sequence[int]) -> Reply:
        """See Shape."""
        return Reply.of({"predictions": [self.plain(row_k) for row_k in probabilities_nk]})

    def refuse(self, status: int, message: str) -> Reply:
        """See Shape."""
        return Reply.of({"error": message}, status)

    def teacher_keys(self, url: str) -> str:
        """See Shape."""
        return (
            f'kind = "tf-serving"\nurl = "{url}"\nmodel = "{NAME}"\nimages_per_call = {self.mocked.images_per_call}\n'
        )
