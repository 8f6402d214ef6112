"""Requests of the Open Inference Protocol, as a careful client writes them."""

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tests.teacher_server.support import Holder, numbered_images

MODEL = "/v2/models/numbers"
INFER = f"{MODEL}/infer"
DATATYPES = {"uint8": "UINT8", "float32": "FP32", "float64": "FP64", "int64": "INT64"}


def json_input(array: NDArray[np.generic], *, nested: bool = False, **changes: object) -> dict[str, Any]:
    """The input document of ``array``; ``changes`` replace members, None leaves one out."""
    found: dict[str, Any] = {
        "name": "images",
        "shape": list(array.shape),
        "datatype": DATATYPES[str(array.dtype)],
        "data": (array if nested else array.ravel()).tolist(),
    } | changes
    return {name: value for name, value in found.items() if value is not None}


def binary_body(raw: bytes, document: dict[str, Any]) -> tuple[bytes, dict[str, str]]:
    """JSON with ``raw`` after it, and the headers it needs."""
    head = json.dumps(document).encode()
    headers = {"Inference-Header-Content-Length": str(len(head)), "Content-Type": "application/octet-stream"}
    return head + raw, headers


def binary_request(array: NDArray[np.generic], **more: object) -> tuple[bytes, dict[str, str]]:
    """The same of one array."""
    raw = array.tobytes()
    tensor = json_input(array, data=None, parameters={"binary_data_size": len(raw)})
    return binary_body(raw, {"inputs": [tensor], **more})


def bytes_tensor(elements: Sequence[bytes]) -> bytes:
    """Each element with its length before it."""
    return b"".join(len(element).to_bytes(4, "little") + element for element in elements)


def infer_json(holder: Holder, document: object, *, path: str = INFER, **headers: str) -> Any:
    """Ask with JSON; ``headers`` with underscores for hyphens."""
    return holder.client.post(path, json=document, headers=holder.headers(**headers))


def infer_numbers(holder: Holder, *numbers: int, path: str = INFER, **more: object) -> Any:
    """Ask about numbered images, in JSON."""
    return infer_json(holder, {"inputs": [json_input(numbered_images(numbers))], **more}, path=path)


def infer_binary(holder: Holder, request: tuple[bytes, dict[str, str]], **headers: str) -> Any:
    """Ask with a body made by ``binary_request``."""
    content, of_body = request
    return holder.client.post(INFER, content=content, headers=holder.headers(**headers) | of_body)


def output_of(response: Any) -> tuple[dict[str, Any], bytes]:
    """The JSON of an answer and what stands after it."""
    assert response.status_code == 200, response.text
    length = int(response.headers.get("inference-header-content-length", len(response.content)))
    document: dict[str, Any] = json.loads(response.content[:length])
    return document, response.content[length:]


def require_error(response: Any, status: int, code: str) -> str:
    """An error of this protocol in every respect; returns its text."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/json"
    document = response.json()
    assert list(document) == ["error"]
    assert response.headers["x-error-code"] == code
    assert document["error"].startswith(f"{code}: ")
    assert response.headers["x-should-retry"] in ("true", "false")
    assert response.headers["request-id"]
    assert ("retry-after" in response.headers) is (
        response.headers["x-should-retry"] == "true" and status in (409, 429, 503)
    )
    assert response.headers.get("www-authenticate") == ("Bearer" if status == 401 else None)
    text: str = document["error"]
    assert "Traceback" not in text
    return text
