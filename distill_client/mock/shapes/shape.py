"""What the shapes have in common: what is mocked, a request, a reply, and image files to arrays."""

import base64
import binascii
import json
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shared.wire.contracts import InputSpec
from shared.wire.image_files import decode_image_file
from shared.wire.images import InvalidImages

JSON = "application/json"
NAME = "mock"
_PIXELS_MAX = 100_000_000


class Unreadable(ValueError):
    """A request that is not in the vendor's shape; its text goes into the reply."""


@dataclass(frozen=True)
class Mocked:
    """The teacher behind the shape."""

    classes: tuple[str, ...]
    image_hwc: tuple[int, int, int]
    images_per_call: int


@dataclass(frozen=True)
class Request:
    """What came in; header names in small letters, ``path`` without the query."""

    path: str
    headers: Mapping[str, str]
    content: bytes

    def json(self) -> dict[str, Any]:
        """The body as a JSON object. Raises Unreadable."""
        try:
            found = json.loads(self.content)
        except ValueError as error:
            raise Unreadable("the body is not JSON") from error
        if not isinstance(found, dict):
            raise Unreadable("the body is no JSON object")
        return found


@dataclass(frozen=True)
class Reply:
    """What goes out."""

    content: bytes
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=lambda: {"Content-Type": JSON})

    @classmethod
    def of(cls, document: object, status: int = 200) -> "Reply":
        """A JSON document."""
        return cls(json.dumps(document).encode(), status)


class Shape(ABC):
    """One vendor's protocol. Used from several threads."""

    takes_partial = False  # whether it can answer some images of a call, and others with an error
    images_per_call_max: int | None = None

    def __init__(self, mocked: Mocked) -> None:
        self.mocked = mocked

    def look(self, path: str) -> Reply | None:
        """The reply to a GET that asks for no images; None where there is nothing at ``path``."""
        return None

    @abstractmethod
    def takes(self, path: str) -> bool:
        """Whether images are sent to ``path``."""

    @abstractmethod
    def read(self, request: Request) -> NDArray[np.uint8]:
        """The images_nhwc that were sent. Raises Unreadable."""

    @abstractmethod
    def render(self, request: Request, probabilities_nk: NDArray[np.float32], failed: Sequence[int]) -> Reply:
        """The answer; the images at the places ``failed`` have an error, where the shape takes that."""

    @abstractmethod
    def refuse(self, status: int, message: str) -> Reply:
        """A refusal."""

    @abstractmethod
    def teacher_keys(self, url: str) -> str:
        """The keys of a teacher's file, as TOML, that this protocol adds to those of every teacher."""

    def decoded(self, content: bytes) -> NDArray[np.uint8]:
        """An image file as uint8 H x W x C, of exactly the mocked size. Raises Unreadable."""
        height, width, channels = self.mocked.image_hwc
        spec = InputSpec.model_validate({"height": height, "width": width, "channels": channels, "resize": "exact"})
        try:
            return decode_image_file(content, spec, pixels_max=_PIXELS_MAX)
        except InvalidImages as error:
            raise Unreadable(str(error)) from error

    def decoded_base64(self, text: object) -> NDArray[np.uint8]:
        """The same from base64. Raises Unreadable."""
        if not isinstance(text, str):
            raise Unreadable("an image is no base64 text")
        try:
            return self.decoded(base64.b64decode(text, validate=True))
        except binascii.Error as error:
            raise Unreadable(f"an image is not base64: {error}") from error

    def stacked(self, images: Sequence[NDArray[np.uint8]]) -> NDArray[np.uint8]:
        """Images of one call. Raises Unreadable for none or too many."""
        if not images or len(images) > self.mocked.images_per_call:
            raise Unreadable(f"{len(images)} images in a call; allowed are 1 to {self.mocked.images_per_call}")
        return np.stack(images)

    def ranked(self, row_k: NDArray[np.float32]) -> list[tuple[str, float]]:
        """Classes with their probabilities, the most probable first."""
        order = np.argsort(-row_k, kind="stable")
        return [(self.mocked.classes[int(index)], _plain(row_k[index])) for index in order]

    def plain(self, row_k: NDArray[np.float32]) -> list[float]:
        """Probabilities as the JSON numbers that they were rounded to."""
        return [_plain(value) for value in row_k]


def _plain(value: np.float32) -> float:
    return round(float(value), 6)
