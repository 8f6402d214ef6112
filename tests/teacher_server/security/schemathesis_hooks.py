"""What schemathesis loads (SCHEMATHESIS_HOOKS): how images look, which no OpenAPI document can say."""

import io

import numpy as np
import schemathesis
from hypothesis import strategies as st
from PIL import Image

from shared.wire.images import encode_npy
from tests.teacher_server.support import numbered_images

NUMBERS = st.integers(0, 65535)


def picture(number: int, *, kind: str) -> bytes:
    """An image file that the teacher `numbers` reads."""
    stream = io.BytesIO()
    Image.fromarray(np.asarray(numbered_images([number])[0, :, :, 0])).save(stream, format=kind)
    return stream.getvalue()


schemathesis.openapi.media_type(
    "application/x-npy",
    st.lists(NUMBERS, min_size=1, max_size=3).map(lambda numbers: encode_npy(numbered_images(numbers))),
)
for media_type, kind in (("image/png", "PNG"), ("image/jpeg", "JPEG"), ("image/webp", "WEBP")):
    schemathesis.openapi.media_type(media_type, st.builds(picture, NUMBERS, kind=st.just(kind)))
