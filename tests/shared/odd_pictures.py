"""Every kind of picture people have in their folders, and of file that only looks like one, made on the spot."""

import io
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image


def paint(seed: int, *, height: int = 90, width: int = 120, channels: int = 3) -> Image.Image:
    """A smooth picture that no other seed gives."""
    coarse = np.random.default_rng(seed).integers(0, 256, (5, 5, channels), np.uint8)
    return Image.fromarray(coarse.squeeze()).resize((width, height), Image.Resampling.BICUBIC)


def encode(picture: Image.Image, file_format: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, file_format, **options)
    return buffer.getvalue()


def write_good_pictures(folder: Path, count: int, *, seed: int = 0) -> None:
    """``count`` JPEG files of many sizes."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        picture = paint(seed + number, height=40 + 7 * (number % 23), width=50 + 11 * (number % 17))
        (folder / f"{number:05}.jpg").write_bytes(encode(picture, "JPEG", quality=90))


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def bomb() -> bytes:
    """A PNG file of some hundred bytes that promises 2.5 gigapixels."""
    header = _chunk(b"IHDR", struct.pack(">IIBBBBB", 50_000, 50_000, 8, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + _chunk(b"IDAT", zlib.compress(bytes(50_001))) + _chunk(b"IEND", b"")


def _rotated() -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    return encode(paint(101), "JPEG", exif=exif)


def _sixteen_bit() -> Image.Image:
    return Image.fromarray((np.indices((80, 90)).sum(axis=0) * 300).astype(np.uint16))


def usable_files() -> dict[str, bytes]:
    """Odd but honest: each of them is a picture that a teacher can be asked about."""
    layer = paint(102).convert("RGBA")
    layer.putalpha(paint(103, channels=1))
    return {
        "rotated by EXIF.jpg": _rotated(),
        "transparent.png": encode(layer, "PNG"),
        "grey.png": encode(paint(104, channels=1), "PNG"),
        "grey with alpha.png": encode(layer.convert("LA"), "PNG"),
        "cmyk.jpg": encode(paint(105).convert("CMYK"), "JPEG"),
        "palette.png": encode(paint(106).convert("P", palette=Image.Palette.ADAPTIVE), "PNG"),
        "sixteen-bit.png": encode(_sixteen_bit(), "PNG"),
        "one-bit.png": encode(paint(107, channels=1).convert("1"), "PNG"),
        "animated.webp": encode(paint(108), "WEBP", save_all=True, append_images=[paint(109)], duration=9),
        "übung mit Leerzeichen 猫.jpg": encode(paint(110), "JPEG"),
        "UPPER CASE.JPG": encode(paint(111), "JPEG"),
        "really a webp.jpg": encode(paint(112), "WEBP"),
        "one row.png": encode(paint(113, height=1, width=500), "PNG"),
        "small.png": encode(paint(114, height=5, width=4), "PNG"),
    }


def unusable_files() -> dict[str, bytes]:
    """Each has to be named and passed over."""
    whole = encode(paint(120), "JPEG")
    return {
        "truncated.jpg": whole[: len(whole) // 2],
        "corrupt.png": encode(paint(121), "PNG")[:60] + np.random.default_rng(1).bytes(300),
        "empty.png": b"",
        "a text.jpg": b"These are not the pixels you are looking for.",
        "bomb.png": bomb(),
        "animated.gif": encode(paint(122), "GIF", save_all=True, append_images=[paint(123)]),
        "a gif.png": encode(paint(124), "GIF"),
        "scan.tiff": encode(paint(125), "TIFF"),
    }


def ignored_files() -> dict[str, bytes]:
    """Not pictures, and nobody thinks they are."""
    return {
        ".hidden.jpg": encode(paint(130), "JPEG"),
        "._resource fork.jpg": b"\0\5\x16\7",
        "notes.txt": b"hello",
        "Thumbs.db": b"\xd0\xcf\x11\xe0",
    }


def write_all(folder: Path, files: dict[str, bytes]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)
