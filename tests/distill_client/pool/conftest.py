"""A folder of odd pictures."""

from pathlib import Path

import pytest

from tests.shared.odd_pictures import (
    encode,
    ignored_files,
    paint,
    unusable_files,
    usable_files,
    write_all,
    write_good_pictures,
)


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Good ones, odd ones, bad ones, in nested folders."""
    folder = tmp_path / "my pictures"
    write_good_pictures(folder / "holiday" / "2024", 15)
    write_all(folder, {**usable_files(), **unusable_files(), **ignored_files()})
    same = paint(200)
    write_all(folder, {"one.png": encode(same, "PNG"), "the same again.webp": encode(same, "WEBP", lossless=True)})
    write_all(folder, {"1x1.png": encode(paint(201, height=1, width=1), "PNG")})
    return folder
