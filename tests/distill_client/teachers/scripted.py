"""Answers of a server of ours, played in order at the transport's seam."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import httpx2
import numpy as np
from numpy.typing import NDArray

from distill_client.teachers.native.teacher import NativeTeacher
from shared.wire.images import NPY_MEDIA_TYPE, encode_npy

IMAGES = np.random.default_rng(0).integers(0, 256, (3, 4, 4, 1), np.uint8)


PROBABILITIES = np.array([[0.5, 0.5], [0.25, 0.75], [1, 0]], np.float32)


HEADERS = {
    "Content-Type": NPY_MEDIA_TYPE,
    "Teacher-Version": "1",
    "Teacher-Disclosure": "probabilities",
    "Images-Charged": "3",
    "Images-Spent": "13",
    "Images-Remaining": "87",
    "Event-Sequence": "5",
    "Event-Hash": "ab" * 32,
}


Step = httpx2.Response | Exception


def good(content: NDArray[np.generic] | bytes = PROBABILITIES, **headers: str | None) -> httpx2.Response:
    """A whole answer; headers by name with underscores, None leaves one out."""
    changes = {name.replace("_", "-").title(): value for name, value in headers.items()}
    kept = {name: value for name, value in {**HEADERS, **changes}.items() if value is not None}
    body = content if isinstance(content, bytes) else encode_npy(content)
    return httpx2.Response(200, content=body, headers=kept)


def problem(code: str, status: int, *, retryable: bool = False, **members: object) -> httpx2.Response:
    content = {"type": f"/docs#{code}", "title": "t", "status": status, "detail": "the detail", "code": code}
    headers = {"Retry-After": "0"} if retryable else {}
    return httpx2.Response(status, json={**content, "retryable": retryable, **members}, headers=headers)


@dataclass
class Script:
    """A transport that plays its steps in order, the last one for ever, and remembers what it was sent."""

    steps: list[Step]
    requests: list[httpx2.Request] = field(default_factory=list)

    def __call__(self, request: httpx2.Request) -> httpx2.Response:
        self.requests.append(request)
        step = self.steps[min(len(self.requests), len(self.steps)) - 1]
        if isinstance(step, Exception):
            raise step
        return httpx2.Response(step.status_code, headers=step.headers, content=step.content)

    def bodies(self) -> set[bytes]:
        return {request.content for request in self.requests}

    def keys(self) -> set[str]:
        return {request.headers["Idempotency-Key"] for request in self.requests}


MakeTeacher = Callable[..., tuple[NativeTeacher, Script]]


def page(events: list[dict[str, Any]], next_after: int | None) -> httpx2.Response:
    return httpx2.Response(200, json={"key_name": "ada", "events": events, "next_after": next_after})
