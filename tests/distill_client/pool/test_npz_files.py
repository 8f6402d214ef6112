"""Pools from .npz files, damaged and hostile ones among them."""

import io
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from distill_client.errors import ConfigError
from distill_client.material import Material
from distill_client.pool import candidates
from shared.wire.image_files import decode_image_file
from tests.distill_client.pool.support import SPEC, config_of, teacher
from tests.shared.odd_pictures import (
    encode,
    paint,
)


def npz(path: Path, **arrays: NDArray[Any]) -> Path:
    np.savez_compressed(path, **arrays)  # type: ignore[arg-type]
    return path


@pytest.mark.parametrize("shape", [(40, 30), (40, 30, 1), (40, 30, 3)])
def test_an_npz_is_brought_to_the_input_by_the_same_rule(tmp_path: Path, shape: tuple[int, ...]) -> None:
    rng = np.random.default_rng(0)
    images = np.stack([np.asarray(paint(seed, height=40, width=30)) for seed in range(22)])
    images = images if shape[2:] == (3,) else images[..., :1].reshape(22, *shape)
    path = npz(tmp_path / "images.npz", images=images, other=rng.random(3))
    material = Material(config_of({"file": str(path)}), teacher().card())

    assert material.pool.usable == 22
    row = int(material.pool.files[4].removeprefix("images[").removesuffix("]"))
    as_file = encode(paint(row, height=40, width=30), "PNG")
    if shape[2:] == (3,):
        np.testing.assert_array_equal(
            material.pool.images_nhwc[4], decode_image_file(as_file, SPEC, pixels_max=10**6)
        )


def objects() -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    return buffer.getvalue()


def header_only(shape: str) -> bytes:
    header = f"{{'descr': '|u1', 'fortran_order': False, 'shape': {shape}}}".encode().ljust(118) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header


def zipped(**members: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(f"{name}.npy", content)
    return buffer.getvalue()


def saved(array: NDArray[Any]) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


BAD_FILES: dict[str, tuple[bytes, str]] = {
    "no zip": (b"not a zip", "not an .npz file, or a damaged one"),
    "nothing": (b"", "not an .npz file, or a damaged one"),
    "truncated": (zipped(images=saved(np.zeros((5, 8, 8), np.uint8)))[:-60], "not an .npz file, or a damaged one"),
    "another name": (zipped(x=saved(np.zeros((5, 8, 8), np.uint8))), "holds no array named 'images', but x"),
    "objects": (zipped(images=objects()), "pickled arrays are never read"),
    "floats": (zipped(images=saved(np.zeros((5, 8, 8, 3), np.float32))), "its images are float32; allowed is uint8"),
    "two dimensions": (zipped(images=saved(np.zeros((5, 8), np.uint8))), r"shape \(5, 8\); allowed are"),
    "four channels": (zipped(images=saved(np.zeros((5, 8, 8, 4), np.uint8))), r"shape \(5, 8, 8, 4\); allowed are"),
    "no images": (zipped(images=saved(np.zeros((0, 8, 8, 3), np.uint8))), r"shape \(0, 8, 8, 3\); allowed are"),
    "a header that lies": (zipped(images=header_only("(99999999, 999, 999, 3)")), "the body holds 0"),
    "Fortran order": (zipped(images=saved(np.asfortranarray(np.ones((5, 8, 8), np.uint8)))), "Fortran order"),
}


@pytest.mark.parametrize("kind", BAD_FILES)
def test_bad_npz_files_are_refused_with_what_is_wrong(tmp_path: Path, kind: str) -> None:
    content, message = BAD_FILES[kind]
    path = tmp_path / "images.npz"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=rf"pool\.file is .*images\.npz: .*{message}"):
        Material(config_of({"file": str(path)}), teacher().card())


@pytest.mark.parametrize("compression", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_a_damaged_npz_is_refused_however_it_is_compressed(tmp_path: Path, compression: int) -> None:
    images = np.random.default_rng(0).integers(0, 256, (50, 8, 8, 3), np.uint8)
    buffer, path = io.BytesIO(), tmp_path / "images.npz"
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        archive.writestr("images.npy", saved(images))
    content = bytearray(buffer.getvalue())
    content[50:300] = b"\xaa" * 250
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=r"pool\.file is .*images\.npz: it (is not an .npz file, or a|cannot be r)"):
        Material(config_of({"file": str(path)}), teacher().card())


def test_an_npz_bomb_is_refused_before_it_is_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(candidates, "_UNPACKED_BYTES_MAX", 100_000)
    path = npz(tmp_path / "images.npz", images=np.zeros((200, 28, 28, 1), np.uint8))
    assert path.stat().st_size < 2_000
    with pytest.raises(ConfigError, match="unpack to 156928 bytes; allowed are 100000"):
        Material(config_of({"file": str(path)}), teacher().card())
    with pytest.raises(ConfigError, match="it cannot be read: No such file"):
        Material(config_of({"file": str(tmp_path / "none.npz")}), teacher().card())
