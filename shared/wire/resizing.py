"""From a decoded picture of any mode and size to a teacher's input: the one declared rule, the same on both sides.

The server applies it to image files, the client to its own pictures, from this module; equal files give equal bytes.
"""

import numpy as np
from PIL import Image, ImageOps

from shared.wire.contracts import Resize
from shared.wire.images import Images, InvalidImages

_SIZE_RULES: dict[Resize, str] = {
    "exact": "of exactly height x width; another size is refused",
    "crop": (
        "shorter side brought to the input's with Pillow's bilinear filter (antialiased, aspect ratio kept), then "
        "cut to height x width around the centre"
    ),
    "stretch": "resized to height x width with Pillow's bilinear filter (antialiased, aspect ratio not kept)",
}


def describe_preprocessing(resize: Resize) -> str:
    """What is done to an image file, for a teacher's card."""
    return (
        "image files (PNG, JPEG, WebP): first frame, EXIF rotation applied, transparency over black, "
        "16 bits to their high 8, converted to greyscale (1 channel) or RGB (3 channels), " + _SIZE_RULES[resize]
    )


def fit_picture(picture: Image.Image, *, height: int, width: int, channels: int, resize: Resize) -> Images:
    """Turn a decoded picture upright, flatten it and bring it to uint8 H x W x C by ``resize``.

    Transparency lies over black: what most pictures hold under it, and so what a teacher saw that was trained on
    files converted without regard to it. Raises InvalidImages for another size under "exact".
    """
    upright = ImageOps.exif_transpose(picture)
    if upright.mode.startswith("I;16") or upright.mode in ("I", "F"):
        upright = _high_byte(upright)
    if upright.has_transparency_data:
        layer = upright.convert("RGBA")
        upright = Image.alpha_composite(Image.new("RGBA", layer.size, (0, 0, 0, 255)), layer)
    flat = upright.convert("L" if channels == 1 else "RGB")
    if flat.size != (width, height):
        flat = _resized(flat, height=height, width=width, resize=resize)
    return np.asarray(flat, dtype=np.uint8).reshape(height, width, channels)


def _resized(flat: Image.Image, *, height: int, width: int, resize: Resize) -> Image.Image:
    if resize == "exact":
        raise InvalidImages(
            f"the picture has {flat.width} x {flat.height} pixels; this teacher takes {width} x {height} exactly "
            "(width x height) and resizes nothing"
        )
    box = _centre_box(flat.size, height=height, width=width) if resize == "crop" else None
    return flat.resize((width, height), Image.Resampling.BILINEAR, box=box)


def _centre_box(size: tuple[int, int], *, height: int, width: int) -> tuple[float, float, float, float]:
    """The part of a picture that is left when its shorter side is brought to the input's and the rest is cut off.

    Rounded as torchvision's Resize and CenterCrop do. Only this part is resized, so that a picture of 1 x 100,000
    pixels does not grow to gigabytes before it is cut.
    """
    columns, rows = size
    if columns * height <= rows * width:  # the width is what fits, the height is cut
        scaled_width, scaled_height = width, max(height, int(width * rows / columns))
    else:
        scaled_width, scaled_height = max(width, int(height * columns / rows)), height
    across, down = columns / scaled_width, rows / scaled_height
    left, top = round((scaled_width - width) / 2) * across, round((scaled_height - height) / 2) * down
    return left, top, min(left + width * across, columns), min(top + height * down, rows)


def _high_byte(deep: Image.Image) -> Image.Image:
    """16-bit greyscale to 8; Pillow's own conversion would clip it. Its transparent value, if any, becomes black."""
    values = np.asarray(deep).astype(np.int64)
    values[values == deep.info.get("transparency", -1)] = 0
    return Image.fromarray((values >> 8).clip(0, 255).astype(np.uint8))
