"""A request's body, as parsed by an API, to a teacher's input: uint8 images_nhwc."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from shared.wire.contracts import InputSpec
from shared.wire.error_codes import ErrorCode
from shared.wire.image_files import decode_image_file
from shared.wire.images import Images, InvalidImages, decode_npy, require_images
from teacher_server.errors import Refusal


@dataclass(frozen=True)
class NpyBody:
    """One ``.npy`` file holding the whole batch."""

    content: bytes


@dataclass(frozen=True)
class ImageFilesBody:
    """Image files in the order they came."""

    contents: tuple[bytes, ...]


@dataclass(frozen=True)
class TensorBody:
    """The whole batch as numbers: uint8, or float32 between 0 and 1 that are quantised before anything else."""

    values: NDArray[np.uint8] | NDArray[np.float32]


Body = NpyBody | ImageFilesBody | TensorBody


@dataclass(frozen=True)
class DecodingLimits:
    """What one request may carry."""

    images_max: int
    file_pixels_max: int
    request_pixels_max: int


def decode_body(body: Body, spec: InputSpec, limits: DecodingLimits) -> Images:
    """Decode, resize (files only) and check a body.

    Raises Refusal: invalid_images (with ``index`` where one image is at fault), too_many_images.
    """
    try:
        if isinstance(body, ImageFilesBody):
            return _decode_files(body, spec, limits)
        images_nhwc = require_images(_pixels(body), height=spec.height, width=spec.width, channels=spec.channels)
    except InvalidImages as error:
        raise Refusal(ErrorCode.INVALID_IMAGES, str(error), index=error.index) from error
    _require_count(len(images_nhwc), limits)
    return images_nhwc


def own_input(body: NpyBody | TensorBody) -> InputSpec | None:
    """The input that an array would be for, by its own shape; None when it is for none."""
    try:
        shape = decode_npy(body.content).shape if isinstance(body, NpyBody) else body.values.shape
        return InputSpec.model_validate(dict(zip(("height", "width", "channels"), shape[1:], strict=True)))
    except ValueError:  # pydantic's and the array's own are both
        return None


def quantise(levels: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Levels between 0 and 1, first axis images, to pixels: 255 times each, rounded, half to even.

    Raises InvalidImages, which carries ``index``, where a level is another number or none.
    """
    outside = ~((levels >= 0) & (levels <= 1))  # NaN is neither
    if outside.any():
        index = int(np.argmax(outside.reshape(len(levels), -1).any(axis=1)))
        found = float(levels[index][outside[index]].flat[0])
        raise InvalidImages(f"a value is {found:g}; floats are pixels / 255, from 0 to 1", index=index)
    pixels: NDArray[np.uint8] = np.rint(levels * np.float32(255)).astype(np.uint8)
    return pixels


def _pixels(body: NpyBody | TensorBody) -> NDArray[np.generic]:
    if isinstance(body, NpyBody):
        return decode_npy(body.content)
    return body.values if body.values.dtype == np.uint8 else quantise(body.values.astype(np.float32, copy=False))


def _decode_files(body: ImageFilesBody, spec: InputSpec, limits: DecodingLimits) -> Images:
    if not body.contents:
        raise InvalidImages("there are no image files in the field `images`; send at least one")
    _require_count(len(body.contents), limits)
    # Every file may be large, but not all of them: decoding is work that is done before anything is charged.
    pixels_max = min(limits.file_pixels_max, max(1, limits.request_pixels_max // len(body.contents)))
    return np.stack(
        [
            decode_image_file(content, spec, pixels_max=pixels_max, index=index)
            for index, content in enumerate(body.contents)
        ]
    )


def _require_count(images: int, limits: DecodingLimits) -> None:
    if images > limits.images_max:
        raise Refusal(
            ErrorCode.TOO_MANY_IMAGES,
            f"{images} images in one request; allowed are 1 to {limits.images_max}",
            images=images,
            images_per_request_max=limits.images_max,
        )
