"""Room for many images: in memory while they are few, else in a file that nobody else sees."""

import math
import os
import tempfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

MEMORY_BYTES_MAX = 1 << 30


def allocate_images(
    shape: tuple[int, ...], *, memory_bytes_max: int = MEMORY_BYTES_MAX, folder: Path | None = None
) -> NDArray[np.uint8]:
    """An uint8 array of ``shape``, not yet filled.

    More than ``memory_bytes_max`` bytes are a memory map of an unnamed file in ``folder``, or in the system's folder
    for temporary files; the system removes it with its last user, however that ends. Raises OSError on a full disk.
    """
    size = math.prod(shape)
    if size <= memory_bytes_max:
        return np.empty(shape, np.uint8)
    with tempfile.TemporaryFile(dir=folder) as file:
        # Room that is only promised would be found missing in the middle of a write, which no program survives.
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(file.fileno(), 0, size)
        else:
            file.truncate(size)
        return np.memmap(file, np.uint8, mode="r+", shape=shape)
