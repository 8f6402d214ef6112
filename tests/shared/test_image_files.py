"""PNG, JPEG and WebP files of every kind people have, and of kinds only an attacker makes."""

import io
import struct
import zlib
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from shared.wire.contracts import InputSpec, Resize
from shared.wire.image_files import decode_image_file
from shared.wire.images import InvalidImages

HEIGHT, WIDTH = 4, 6


def decode(
    content: bytes, *, channels: int = 3, pixels_max: int = 1_000_000, index: int = 7, resize: Resize = "stretch"
) -> NDArray[np.uint8]:
    spec = InputSpec.model_validate({"height": HEIGHT, "width": WIDTH, "channels": channels, "resize": resize})
    return decode_image_file(content, spec, pixels_max=pixels_max, index=index)


def encode(image: Image.Image, file_format: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, file_format, **options)
    return buffer.getvalue()


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, *, bits: int = 8, colour: int = 0, rows: bytes = b"", extra: bytes = b"") -> bytes:
    """A PNG file whose header says whatever it is told to; colour 0 is greyscale, 2 is RGB."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + extra + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def png_rows(values: NDArray[np.generic]) -> bytes:
    return b"".join(b"\0" + row.tobytes() for row in values)


@pytest.fixture
def rgb() -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)


@pytest.fixture
def grey() -> NDArray[np.uint8]:
    return np.random.default_rng(1).integers(0, 256, (HEIGHT, WIDTH, 1), np.uint8)


@pytest.mark.parametrize(("file_format", "options"), [("PNG", {}), ("WEBP", {"lossless": True})])
def test_lossless_files_give_their_very_pixels(
    rgb: NDArray[np.uint8], file_format: str, options: dict[str, Any]
) -> None:
    decoded = decode(encode(Image.fromarray(rgb), file_format, **options))

    assert decoded.dtype == np.uint8
    np.testing.assert_array_equal(decoded, rgb)


@pytest.mark.parametrize("channels", [1, 3])
def test_greyscale_is_repeated_for_a_teacher_that_takes_rgb(grey: NDArray[np.uint8], channels: int) -> None:
    decoded = decode(encode(Image.fromarray(grey[..., 0]), "PNG"), channels=channels)
    np.testing.assert_array_equal(decoded, np.repeat(grey, channels, axis=2))


def test_rgb_becomes_luma_for_a_teacher_that_takes_greyscale(rgb: NDArray[np.uint8]) -> None:
    decoded = decode(encode(Image.fromarray(rgb), "PNG"), channels=1)
    np.testing.assert_allclose(decoded[..., 0], rgb @ np.array([0.299, 0.587, 0.114]), atol=1)


def test_jpeg_is_near_its_pixels() -> None:
    smooth = np.linspace(0, 255, HEIGHT * WIDTH).reshape(HEIGHT, WIDTH).astype(np.uint8)
    decoded = decode(encode(Image.fromarray(smooth), "JPEG", quality=100), channels=1)
    np.testing.assert_allclose(decoded[..., 0], smooth, atol=4)


def test_transparency_lies_over_black(rgb: NDArray[np.uint8]) -> None:
    alpha = np.linspace(0, 255, HEIGHT * WIDTH).reshape(HEIGHT, WIDTH, 1).astype(np.uint8)
    rgba = np.concatenate([rgb, alpha], axis=2)
    expected = rgb.astype(float) * alpha / 255

    for content in (encode(Image.fromarray(rgba), "PNG"), encode(Image.fromarray(rgba), "WEBP", lossless=True)):
        np.testing.assert_allclose(decode(content), expected, atol=1)


def test_palette_images_give_their_colours(rgb: NDArray[np.uint8]) -> None:
    palette = Image.fromarray(rgb).convert("P", palette=Image.Palette.ADAPTIVE, colors=16)
    colours = np.asarray(palette.convert("RGB"))
    indices = np.asarray(palette)
    transparent = int(indices[0, 0])

    np.testing.assert_array_equal(decode(encode(palette, "PNG")), colours)
    np.testing.assert_array_equal(
        decode(encode(palette, "PNG", transparency=transparent)),
        np.where((indices == transparent)[..., None], 0, colours),
    )


def test_cmyk_jpeg_gives_its_colours() -> None:
    red = Image.new("RGB", (WIDTH, HEIGHT), (220, 20, 20)).convert("CMYK")
    np.testing.assert_allclose(decode(encode(red, "JPEG", quality=100))[0, 0], (220, 20, 20), atol=6)


def test_sixteen_bit_greyscale_keeps_the_high_byte() -> None:
    deep = (np.arange(HEIGHT * WIDTH).reshape(HEIGHT, WIDTH) * 2800).astype(">u2")
    expected = (deep.astype(int) >> 8)[..., None]

    opaque = png(WIDTH, HEIGHT, bits=16, rows=png_rows(deep))
    with_key = png(WIDTH, HEIGHT, bits=16, rows=png_rows(deep), extra=chunk(b"tRNS", struct.pack(">H", 2800 * 3)))

    np.testing.assert_array_equal(decode(opaque, channels=1), expected)
    np.testing.assert_array_equal(decode(with_key, channels=1), np.where(deep[..., None] == 2800 * 3, 0, expected))


def test_sixteen_bit_rgb_keeps_the_high_byte() -> None:
    deep = np.random.default_rng(2).integers(0, 65_536, (HEIGHT, WIDTH, 3)).astype(">u2")
    content = png(WIDTH, HEIGHT, bits=16, colour=2, rows=png_rows(deep.reshape(HEIGHT, -1)))
    np.testing.assert_array_equal(decode(content), deep.astype(int) >> 8)


def test_one_bit_images_are_black_and_white() -> None:
    bits = np.indices((HEIGHT, WIDTH)).sum(axis=0) % 2 == 0
    content = encode(Image.fromarray(bits), "PNG")
    np.testing.assert_array_equal(decode(content, channels=1)[..., 0], np.where(bits, 255, 0))


@pytest.mark.parametrize(("orientation", "turns"), [(1, 0), (3, 2), (6, 3), (8, 1)])
def test_exif_rotation_is_applied(grey: NDArray[np.uint8], orientation: int, turns: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = np.rot90(grey[..., 0], -turns)  # what a camera stores that was held the other way round
    content = encode(Image.fromarray(np.ascontiguousarray(stored)), "PNG", exif=exif)
    np.testing.assert_array_equal(decode(content, channels=1), grey)


def test_only_the_first_frame_of_an_animation_counts(rgb: NDArray[np.uint8]) -> None:
    first, second = Image.fromarray(rgb), Image.fromarray(255 - rgb)
    for file_format, options in (("PNG", {}), ("WEBP", {"lossless": True, "duration": 10})):
        content = encode(first, file_format, save_all=True, append_images=[second], **options)
        np.testing.assert_array_equal(decode(content), rgb)


def test_other_sizes_are_resized_with_antialiasing() -> None:
    stripes = np.tile(np.array([0, 255], np.uint8), (HEIGHT * 10, WIDTH * 5))
    decoded = decode(encode(Image.fromarray(stripes), "PNG"), channels=1)
    assert decoded.shape == (HEIGHT, WIDTH, 1)
    np.testing.assert_allclose(decoded, 127, atol=16)


@pytest.mark.parametrize("file_format", ["GIF", "BMP", "TIFF", "ICO", "PPM"])
def test_other_formats_are_refused(rgb: NDArray[np.uint8], file_format: str) -> None:
    with pytest.raises(InvalidImages, match="one of PNG, JPEG, WEBP") as caught:
        decode(encode(Image.fromarray(rgb), file_format))
    assert caught.value.index == 7


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        pytest.param(b"", "empty", id="nothing"),
        pytest.param(b"not an image", "cannot be decoded", id="text"),
        pytest.param(png(50_000, 50_000), "more than the", id="2.5 gigapixels of nothing"),
        pytest.param(png(0, HEIGHT), "cannot be decoded", id="no columns"),
        pytest.param(png(WIDTH, HEIGHT), "cannot be decoded", id="no rows"),
        pytest.param(
            png(WIDTH, HEIGHT, rows=bytes(28), extra=chunk(b"zTXt", b"k\0\0" + zlib.compress(bytes(80_000_000)))),
            "cannot be decoded",
            id="a text chunk that unpacks to 80 MB",
        ),
    ],
)
def test_hostile_files_are_refused(content: bytes, reason: str) -> None:
    with pytest.raises(InvalidImages, match=reason) as caught:
        decode(content, index=3)
    assert caught.value.index == 3


@pytest.mark.parametrize("file_format", ["PNG", "JPEG", "WEBP"])
def test_truncated_files_are_refused(file_format: str) -> None:
    noise = np.random.default_rng(3).integers(0, 256, (64, 64, 3), np.uint8)
    content = encode(Image.fromarray(noise), file_format)
    for kept in (8, 40, len(content) // 2, len(content) - 100):
        with pytest.raises(InvalidImages):
            decode(content[:kept])


def test_too_many_pixels_are_refused_by_the_header_alone() -> None:
    content = png(1001, 1000)  # no pixel data: decoding it would say something else
    with pytest.raises(InvalidImages, match="1001 x 1000 pixels, more than the 1000000 allowed"):
        decode(content)


def test_as_many_pixels_as_allowed_pass() -> None:
    content = encode(Image.new("L", (100, 50)), "PNG")
    assert decode(content, pixels_max=5000).shape == (HEIGHT, WIDTH, 3)
    with pytest.raises(InvalidImages):
        decode(content, pixels_max=4999)


@settings(deadline=None, max_examples=60)
@given(st.sampled_from(["PNG", "JPEG", "WEBP"]), st.data())
def test_damaged_files_are_refused_or_read(file_format: str, data: st.DataObject) -> None:
    """Whatever bytes change, the outcome is InvalidImages or an image of the right shape: never another error."""
    content = bytearray(encode(Image.new("RGB", (16, 16), (10, 200, 30)), file_format))
    for position in data.draw(st.lists(st.integers(0, len(content) - 1), min_size=1, max_size=5)):
        content[position] = data.draw(st.integers(0, 255))
    try:
        decoded = decode(bytes(content))
    except InvalidImages:
        return
    assert decoded.shape == (HEIGHT, WIDTH, 3)
    assert decoded.dtype == np.uint8
