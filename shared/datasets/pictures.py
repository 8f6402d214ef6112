"""Folders of pictures as people have them: found in a fixed order, decoded by the rule, and never a crash.

What is not a picture, or cannot be one, is passed over and named with the reason. Decoding runs in a few threads;
Pillow lets go of the interpreter while it works.
"""

import errno
import os
import stat
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from shared.datasets.allocation import allocate_images
from shared.datasets.dataset import Skipped
from shared.wire.contracts import InputSpec
from shared.wire.image_files import FORMATS, decode_image_file
from shared.wire.images import Images, InvalidImages

PICTURE_PIXELS_MAX = 100_000_000
FILE_BYTES_MAX = 200_000_000

_READ = frozenset((".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp"))
# Their owner takes them for pictures, so it is said that they are not read; a .txt or a .json is not worth a word.
# fmt: off
_NOT_READ = frozenset((
    ".gif", ".bmp", ".tif", ".tiff", ".heic", ".heif", ".avif", ".jp2", ".jxl", ".ico", ".psd", ".svg", ".pbm",
    ".pgm", ".ppm", ".tga", ".exr", ".dng", ".cr2", ".cr3", ".nef", ".arw", ".orf", ".raf", ".rw2",
))
# fmt: on
_FILES_PER_BLOCK = 256
_EXIF_ORIENTATION = 0x0112


@dataclass(frozen=True)
class Pictures:
    """images_nhwc uint8 of those files that could be read, ``files`` their indices, and what was skipped."""

    images_nhwc: NDArray[np.uint8]
    files: NDArray[np.int64]
    skipped: tuple[Skipped, ...]


def find_pictures(root: Path) -> tuple[list[Path], list[Skipped]]:
    """Every picture file below ``root`` in the order of its path, and what looks like one but is of another kind.

    Hidden files and folders and files of other kinds are ignored. Links are followed, but no folder is entered twice.
    """
    found: list[Path] = []
    skipped: list[Skipped] = []

    def unreadable(error: OSError) -> None:
        skipped.append(skip(Path(error.filename), root, _reason(error)))

    # A link to a folder above would otherwise lead out of the pictures and into the rest of the disk.
    seen = {_identity(folder) for folder in (root.resolve(), *root.resolve().parents)}
    for place, folders, files in os.walk(root, followlinks=True, onerror=unreadable):
        folders[:] = [name for name in sorted(folders) if name[0] != "." and _is_new(Path(place, name), seen)]
        for name in files:
            path, kind = Path(place, name), os.path.splitext(name)[1].lower()
            if name.startswith(".") or kind not in _READ | _NOT_READ:
                continue
            if kind in _READ:
                found.append(path)
            else:
                skipped.append(skip(path, root, f"a {kind[1:].upper()} file; PNG, JPEG and WebP are read"))
    skipped.sort(key=lambda one: one.file)
    return sorted(found, key=lambda path: path.relative_to(root).parts), skipped


def _is_new(folder: Path, seen: set[tuple[int, int]]) -> bool:
    """Whether a folder was not entered before, under whatever name."""
    try:
        identity = _identity(folder)
    except OSError:
        return True  # os.walk will meet the same error and report it
    is_new = identity not in seen
    seen.add(identity)
    return is_new


def _identity(folder: Path) -> tuple[int, int]:
    status = folder.stat()
    return status.st_dev, status.st_ino


def read_pictures(paths: Sequence[Path], root: Path, spec: InputSpec) -> Pictures:
    """Decode files in their order to uint8 N x H x W x C by ``spec``; a file that cannot be is skipped and named.

    Many are kept in a memory-mapped file. Raises OSError when the disk has no room for it.
    """
    images_nhwc = allocate_images((len(paths), spec.height, spec.width, spec.channels))
    files: list[int] = []
    skipped: list[Skipped] = []
    for index, outcome in enumerate(_decoded(paths, spec)):
        if isinstance(outcome, str):
            skipped.append(skip(paths[index], root, outcome))
        else:
            images_nhwc[len(files)] = outcome
            files.append(index)
    return Pictures(images_nhwc[: len(files)], np.array(files, dtype=np.int64), tuple(skipped))


def _decoded(paths: Sequence[Path], spec: InputSpec) -> Iterator[Images | str]:
    """Each file's image, or why it has none."""
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1), thread_name_prefix="decoding") as threads:
        for start in range(0, len(paths), _FILES_PER_BLOCK):  # else all results would wait for the slowest consumer
            yield from threads.map(lambda path: _decode(path, spec), paths[start : start + _FILES_PER_BLOCK])


def _decode(path: Path, spec: InputSpec) -> Images | str:
    try:
        return decode_image_file(read_picture_file(path), spec, pixels_max=PICTURE_PIXELS_MAX)
    except OSError as error:
        return _reason(error)
    except InvalidImages as error:
        return str(error)


def read_picture_file(path: Path) -> bytes:
    """The bytes of a regular file of bearable size; raises OSError, and InvalidImages for anything else."""
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):  # a pipe would never end, a device never stop
        raise InvalidImages("it is not a regular file")
    if status.st_size > FILE_BYTES_MAX:
        raise InvalidImages(f"the file has {status.st_size} bytes, more than the {FILE_BYTES_MAX} allowed")
    return path.read_bytes()


def common_size(paths: Sequence[Path], root: Path) -> tuple[int, int, Literal[1, 3]]:
    """Height, width and channels that all readable pictures have by their headers; 1 channel when all are grey.

    Raises ValueError when there are several sizes, or no readable picture.
    """
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1), thread_name_prefix="sizing") as threads:
        headers = [header for header in threads.map(_header, paths) if header is not None]
    sizes = sorted({(height, width) for height, width, _ in headers})
    if not sizes:
        raise ValueError(f"{root} holds no readable picture")
    if len(sizes) > 1:
        smallest, largest = sizes[0], sizes[-1]
        raise ValueError(
            f"the pictures in {root} have {len(sizes)} sizes, from {smallest[0]}x{smallest[1]} to "
            f"{largest[0]}x{largest[1]}; say which to bring them to as height x width x channels, such as 64x64x3"
        )
    return *sizes[0], 1 if all(is_grey for _, _, is_grey in headers) else 3


def _header(path: Path) -> tuple[int, int, bool] | None:
    try:
        if not path.is_file():
            return None
        with Image.open(path, formats=FORMATS) as image:
            turned = image.getexif().get(_EXIF_ORIENTATION, 1) in (5, 6, 7, 8)
            width, height = reversed(image.size) if turned else image.size
            return height, width, image.mode in ("1", "L", "LA", "I", "F") or image.mode.startswith("I;16")
    except Exception:  # hostile headers raise many kinds; reading the file says which
        return None


def skip(path: Path, root: Path, reason: str) -> Skipped:
    """A file that is passed over, by its printable name."""
    return Skipped(printable_name(path, root), reason)


def printable_name(path: Path, root: Path) -> str:
    """A path below ``root``; characters that a terminal would obey, or no text can hold, are replaced."""
    try:
        name = path.relative_to(root)
    except ValueError:
        name = path
    text = os.fsencode(name.as_posix()).decode("utf-8", "replace")
    return "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in text)


def _reason(error: OSError) -> str:
    if error.errno == errno.ENOENT:
        return "a link to nothing, or removed meanwhile"
    return f"cannot be read: {error.strerror or type(error).__name__}"
