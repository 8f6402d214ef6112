"""Files that are whole: the old or the new content, whenever the process dies."""

import os
from pathlib import Path


def write_durably(path: Path, content: bytes) -> None:
    """Write ``content`` so that it is on the disk, and ``path`` never holds a part of it, when this returns."""
    unfinished = path.with_name(path.name + ".tmp")
    with unfinished.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    unfinished.replace(path)
