"""Images as other people's servers take them: encoded files of exactly our bytes, where the form allows it."""

import io
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from distill_client.errors import ConfigError
from distill_client.teachers.teacher_file import TeacherFile

_CALL_OVERHEAD_BYTES = 2048  # of a call, beside its images

FileForm = Literal["png", "webp", "jpeg"]
MEDIA_TYPES: dict[FileForm, str] = {"png": "image/png", "webp": "image/webp", "jpeg": "image/jpeg"}


def encode_image(image_hwc: NDArray[np.uint8], form: FileForm) -> bytes:
    """One uint8 image as a file. PNG and WebP are lossless; JPEG changes what is asked, and is never a default."""
    pixels = image_hwc[:, :, 0] if image_hwc.shape[2] == 1 else image_hwc
    target = io.BytesIO()
    options: dict[FileForm, dict[str, int]] = {
        "png": {},
        "webp": {"lossless": 1},
        "jpeg": {"quality": 95, "subsampling": 0},
    }
    Image.fromarray(pixels).save(target, form.upper(), **options[form])
    return target.getvalue()


def file_bytes_max(image_hwc: tuple[int, int, int]) -> int:
    """The most bytes that an image of this shape takes as a file: noise, which no form makes smaller."""
    height, width, channels = image_hwc
    return height * (width * channels + 1) * 11 // 10 + 1024


def base64_bytes(size: int) -> int:
    """What ``size`` bytes take as base64."""
    return -(-size // 3) * 4


def images_that_fit(file: TeacherFile, image_bytes: int) -> int:
    """How many images of ``image_bytes``, as they are sent, a call may have. Raises ConfigError where none fits."""
    if file.call_bytes_max is None:
        return file.images_per_call
    fitting = (file.call_bytes_max - _CALL_OVERHEAD_BYTES) // image_bytes
    if fitting < 1:
        raise ConfigError(
            f"call_bytes_max is {file.call_bytes_max}; one image of {file.image_size} takes up to "
            f"{image_bytes + _CALL_OVERHEAD_BYTES} bytes as it is sent"
        )
    return min(file.images_per_call, fitting)
