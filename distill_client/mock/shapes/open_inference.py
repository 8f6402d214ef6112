"""The Open Inference Protocol v2: JSON, and the binary tensor extension; one input of bytes, one output."""

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distill_client.mock.shapes.shape import JSON, NAME, Reply, Request, Shape, Unreadable

_MODEL = f"/v2/models/{NAME}"
_LENGTH = "inference-header-content-length"


class OpenInferenceShape(Shape):
    """A batch a call, answered whole."""

    def look(self, path: str) -> Reply | None:
        """See Shape: health and metadata."""
        extents = [-1, *self.mocked.image_hwc]
        known: dict[str, object] = {
            "/v2": {"name": "mock", "version": "1", "extensions": ["binary_tensor_data"]},
            "/v2/health/live": {"live": True},
            "/v2/health/ready": {"ready": True},
            f"{_MODEL}/ready": {"name": NAME, "ready": True},
            _MODEL: {
                "name": NAME,
                "versions": ["1"],
                "platform": "mock",
                "inputs": [{"name": "images", "datatype": "UINT8", "shape": extents}],
                "outputs": [{"name": "probabilities", "datatype": "FP32", "shape": [-1, len(self.mocked.classes)]}],
            },
        }
        return Reply.of(known[path]) if path in known else None

    def takes(self, path: str) -> bool:
        """See Shape."""
        return path in (f"{_MODEL}/infer", f"{_MODEL}/versions/1/infer")

    def read(self, request: Request) -> NDArray[np.uint8]:
        """See Shape."""
        head, rest = _split(request)
        try:
            (tensor,) = head["inputs"]
            count, datatype = int(tensor["shape"][0]), tensor["datatype"]
            size = (tensor.get("parameters") or {}).get("binary_data_size")
            raw = rest[: int(size)] if size is not None else np.asarray(tensor["data"], np.uint8).tobytes()
            images = np.frombuffer(raw, np.uint8).reshape(count, *self.mocked.image_hwc)
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise Unreadable(f"expected one input images of UINT8, shape [N, H, W, C]: {error}") from error
        if datatype != "UINT8" or list(tensor["shape"][1:]) != list(self.mocked.image_hwc):
            raise Unreadable(
                f"input is {datatype} of shape {tensor['shape']}; expected UINT8 of {self.mocked.image_hwc}"
            )
        return self.stacked(list(images))

    def render(self, request: Request, probabilities_nk: NDArray[np.float32], failed: Sequence[int]) -> Reply:
        """See Shape."""
        asked, _ = _split(request)
        tensor: dict[str, Any] = {"name": "probabilities", "datatype": "FP32", "shape": list(probabilities_nk.shape)}
        document = {"model_name": NAME, "model_version": "1", "id": asked.get("id", ""), "outputs": [tensor]}
        if not _wants_binary(asked):
            tensor["data"] = [value for row_k in probabilities_nk for value in self.plain(row_k)]
            return Reply.of(document)
        raw = probabilities_nk.astype("<f4").tobytes()
        tensor["parameters"] = {"binary_data_size": len(raw)}
        head = json.dumps(document).encode()
        headers = {"Content-Type": "application/octet-stream", "Inference-Header-Content-Length": str(len(head))}
        return Reply(head + raw, 200, headers)

    def refuse(self, status: int, message: str) -> Reply:
        """See Shape."""
        return Reply(json.dumps({"error": message}).encode(), status, {"Content-Type": JSON})

    def teacher_keys(self, url: str) -> str:
        """See Shape."""
        return (
            f'kind = "open-inference"\nurl = "{url}"\nmodel = "{NAME}"\ndatatype = "UINT8"\n'
            f"images_per_call = {self.mocked.images_per_call}\n"
        )


def _split(request: Request) -> tuple[dict[str, Any], bytes]:
    """The JSON head, and the tensors' bytes after it."""
    length = request.headers.get(_LENGTH)
    if length is None:
        return request.json(), b""
    if not length.isdecimal() or int(length) > len(request.content):
        raise Unreadable(f"Inference-Header-Content-Length is {length}")
    cut = int(length)
    return Request(request.path, request.headers, request.content[:cut]).json(), request.content[cut:]


def _wants_binary(asked: dict[str, Any]) -> bool:
    if (asked.get("parameters") or {}).get("binary_data_output"):
        return True
    outputs = asked.get("outputs") or [{}]
    return bool((outputs[0].get("parameters") or {}).get("binary_data"))
