"""Image files (PNG, JPEG, WebP) to a teacher's input: the one declared rule, the same on both sides of the wire."""

import io
import warnings

import numpy as np
from PIL import Image, ImageOps

from shared.wire.images import Images, InvalidImages

# Pillow warns of large images above a limit of its own; ours is below it and an error. Switched off here, once,
# because warnings.catch_warnings changes the whole process and images are decoded in several threads.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)

FORMATS = ("PNG", "JPEG", "WEBP")
PREPROCESSING = (
    "image files (PNG, JPEG, WebP): first frame, EXIF rotation applied, transparency over black, "
    "converted to greyscale (1 channel) or RGB (3 channels), "
    "resized to height x width with Pillow's bilinear filter (antialiased, aspect ratio not kept)"
)


def decode_image_file(
    content: bytes, *, height: int, width: int, channels: int, pixels_max: int, index: int
) -> Images:
    """Decode one image file to uint8 H x W x C by the rule in ``PREPROCESSING``.

    The size in the header is compared with ``pixels_max`` before any pixel is decoded, so a decompression bomb
    costs nothing. Raises InvalidImages, which carries ``index``.
    """
    if not content:
        raise InvalidImages("the image file is empty", index=index)
    try:
        with Image.open(io.BytesIO(content), formats=FORMATS) as image:
            columns, rows = image.size
            if columns * rows > pixels_max:
                raise InvalidImages(
                    f"the image has {columns} x {rows} pixels, more than the {pixels_max} allowed", index=index
                )
            return _to_input(image, height=height, width=width, channels=channels)
    except InvalidImages:
        raise
    except Image.DecompressionBombError as error:  # Pillow's own limit, met before ours
        raise InvalidImages(f"the image has more than the {pixels_max} pixels allowed", index=index) from error
    except Exception as error:  # Pillow's decoders raise many kinds on hostile files; all mean the same here
        raise InvalidImages(
            f"the file cannot be decoded as one of {', '.join(FORMATS)}: {type(error).__name__}", index=index
        ) from error


def _to_input(image: Image.Image, *, height: int, width: int, channels: int) -> Images:
    upright = ImageOps.exif_transpose(image)
    if upright.mode.startswith("I;16") or upright.mode in ("I", "F"):
        upright = _high_byte(upright)
    if upright.has_transparency_data:
        layer = upright.convert("RGBA")
        upright = Image.alpha_composite(Image.new("RGBA", layer.size, (0, 0, 0, 255)), layer)
    flat = upright.convert("L" if channels == 1 else "RGB")
    if flat.size != (width, height):
        flat = flat.resize((width, height), Image.Resampling.BILINEAR)
    return np.asarray(flat, dtype=np.uint8).reshape(height, width, channels)


def _high_byte(deep: Image.Image) -> Image.Image:
    """16-bit greyscale to 8; Pillow's own conversion would clip it. Its transparent value, if any, becomes black."""
    values = np.asarray(deep).astype(np.int64)
    values[values == deep.info.get("transparency", -1)] = 0
    return Image.fromarray((values >> 8).clip(0, 255).astype(np.uint8))
