"""Images as other people's servers take them: encoded files of exactly our bytes, where the form allows it."""

import io
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

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
