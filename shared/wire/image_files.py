"""Image files (PNG, JPEG, WebP) to a teacher's input; hostile ones are refused, never more than an error."""

import io
import warnings

from PIL import Image, UnidentifiedImageError

from shared.wire.contracts import InputSpec
from shared.wire.images import Images, InvalidImages
from shared.wire.resizing import fit_picture

# Pillow warns of large images above a limit of its own; ours is below it and an error. Switched off here, once,
# because warnings.catch_warnings changes the whole process and images are decoded in several threads.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)

FORMATS = ("PNG", "JPEG", "WEBP")


def decode_image_file(content: bytes, spec: InputSpec, *, pixels_max: int, index: int | None = None) -> Images:
    """Decode one image file to uint8 H x W x C by the rule of ``shared.wire.resizing``.

    The size in the header is compared with ``pixels_max`` before any pixel is decoded, so a decompression bomb
    costs nothing. Raises InvalidImages, which carries ``index``.
    """
    if not content:
        raise InvalidImages("the image file is empty", index=index)
    try:
        with Image.open(io.BytesIO(content), formats=FORMATS) as image:
            columns, rows = image.size
            if columns * rows > pixels_max:
                raise InvalidImages(f"the image has {columns} x {rows} pixels, more than the {pixels_max} allowed")
            return fit_picture(
                image, height=spec.height, width=spec.width, channels=spec.channels, resize=spec.resize
            )
    except InvalidImages as error:
        error.index = index
        raise
    except Image.DecompressionBombError as error:  # Pillow's own limit, met before ours
        raise InvalidImages(f"the image has more than the {pixels_max} pixels allowed", index=index) from error
    except Exception as error:  # Pillow's decoders raise many kinds on hostile files; all mean the same here
        why = (
            "it is none of them" if isinstance(error, UnidentifiedImageError) else f"damaged, {type(error).__name__}"
        )
        raise InvalidImages(
            f"the file cannot be decoded as one of {', '.join(FORMATS)}: {why}", index=index
        ) from error
