"""A file that is there whole, or not at all."""

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from teacher_server.errors import OperatorError


@contextmanager
def whole_file(file: Path) -> Iterator[IO[str]]:
    """A stream whose content becomes ``file`` when the block ends well, on the disk by then; else nothing changes.

    Readable by its owner alone: a history is between a key's holder and the owner. Raises OperatorError, also for a
    device or a pipe, which a new file would take the place of.
    """
    file = file.resolve()  # what a link leads to is replaced, not the link
    if file.exists() and not file.is_file() and not file.is_dir():
        raise OperatorError(f"{file} is no plain file; leave the option out to write to standard output")
    draft = file.with_name(f".{file.name}.{secrets.token_hex(4)}")
    try:
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
                yield stream
                stream.flush()
                os.fsync(stream.fileno())
            os.replace(draft, file)
            sync_folder(file.parent)
        finally:
            draft.unlink(missing_ok=True)
    except OSError as error:
        raise OperatorError(f"{file} cannot be written: {error.strerror or error}") from error


def sync_folder(folder: Path) -> None:
    """Make what was created, renamed or removed in ``folder`` durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
