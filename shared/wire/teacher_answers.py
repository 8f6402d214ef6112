"""The owner's file of a teacher's answers on a test split: how it is written, and how it is read without trust.

An uncompressed ``.npz`` of six members: ``probabilities_nk`` (float32 N x K, rounded as on the wire) and the strings
``teacher``, ``version``, ``dataset``, ``split`` and ``images_digest`` (``images.batch_digest`` of the split's images
in order, by which the reader knows that it holds the same ones). It goes by hand from owner to client; no endpoint
gives it away.
"""

import io
import os
import re
import struct
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from shared.wire.contracts import PROBABILITY_DECIMALS

STRING_FIELDS = ("teacher", "version", "dataset", "split", "images_digest")
MEMBERS = (*STRING_FIELDS, "probabilities_nk")
STRING_CHARACTERS_MAX = 200


@dataclass(frozen=True)
class TeacherAnswers:
    """A teacher's answers on every image of one split, in the split's order; raises ValueError when made wrong."""

    teacher: str
    version: str
    dataset: str
    split: str
    images_digest: str
    probabilities_nk: NDArray[np.float32]

    def __post_init__(self) -> None:
        for field in STRING_FIELDS:
            _require_text(field, getattr(self, field))
        if not re.fullmatch(r"[0-9a-f]{64}", self.images_digest):
            raise ValueError(f"images_digest is {self.images_digest!r}; allowed are 64 hexadecimal digits")
        _require_probabilities(self.probabilities_nk)


def write_teacher_answers(path: Path, answers: TeacherAnswers) -> None:
    """Write the file, rounding to the wire's decimals; ``path`` holds all of it or is as it was."""
    members: dict[str, NDArray[np.generic]] = {name: np.array(getattr(answers, name)) for name in STRING_FIELDS}
    members["probabilities_nk"] = np.round(answers.probabilities_nk, PROBABILITY_DECIMALS)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, draft = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with open(handle, "wb") as file:
            np.savez(file, allow_pickle=False, **members)
            file.flush()
            os.fsync(file.fileno())
        Path(draft).chmod(0o644)  # mkstemp's files are their maker's alone
        Path(draft).replace(path)
    finally:
        Path(draft).unlink(missing_ok=True)


def read_teacher_answers(path: Path) -> TeacherAnswers:
    """Read the file; raises ValueError naming the file, the field, the value and what is allowed."""
    try:
        with zipfile.ZipFile(path) as archive:
            members = {name: _read_member(archive, name) for name in _member_names(archive)}
        strings = {name: _text(name, members[name]) for name in STRING_FIELDS}
        probabilities_nk = members["probabilities_nk"]
        if probabilities_nk.dtype != np.float32:
            raise ValueError(f"probabilities_nk has dtype {probabilities_nk.dtype}; allowed is float32")
        return TeacherAnswers(**strings, probabilities_nk=probabilities_nk.astype(np.float32, copy=False))
    except OSError as error:
        raise ValueError(f"{path}: cannot be read ({error.strerror})") from error
    except (zipfile.BadZipFile, EOFError, NotImplementedError, struct.error) as error:
        raise ValueError(f"{path}: not a whole .npz file: {error}") from error
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def _member_names(archive: zipfile.ZipFile) -> list[str]:
    found = sorted(info.filename for info in archive.infolist())
    if found != sorted(f"{name}.npy" for name in MEMBERS):
        raise ValueError(f"the members are {', '.join(found) or 'none'}; allowed are exactly {', '.join(MEMBERS)}")
    for info in archive.infolist():
        # as numpy.savez writes them; a compressed member could be a bomb, a stored one is as large as the file
        if info.compress_type != zipfile.ZIP_STORED or info.flag_bits & 1:
            raise ValueError(f"{info.filename} is compressed or encrypted; allowed are plain members")
    return list(MEMBERS)


def _read_member(archive: zipfile.ZipFile, name: str) -> NDArray[np.generic]:
    stream = io.BytesIO(archive.read(f"{name}.npy"))
    try:
        array: NDArray[np.generic] = np.lib.format.read_array(stream, allow_pickle=False)
    except Exception as error:  # numpy raises ValueError, SyntaxError, MemoryError and others on hostile headers
        raise ValueError(f"{name} is not a whole array of plain values: {error}") from error
    return array


def _text(name: str, array: NDArray[np.generic]) -> str:
    if array.dtype.kind != "U" or array.ndim:
        raise ValueError(f"{name} is {array.dtype} {array.shape}; allowed is one string")
    return str(array)


def _require_text(name: str, text: str) -> None:
    if not 1 <= len(text) <= STRING_CHARACTERS_MAX or not text.isprintable():
        raise ValueError(f"{name} is {text[:80]!r}; allowed are 1 to {STRING_CHARACTERS_MAX} printable characters")


def _require_probabilities(probabilities_nk: NDArray[np.float32]) -> None:
    if probabilities_nk.ndim != 2 or len(probabilities_nk) < 1 or probabilities_nk.shape[1] < 2:
        raise ValueError(f"probabilities_nk has shape {probabilities_nk.shape}; allowed is N x K, N >= 1 and K >= 2")
    inside = (probabilities_nk >= 0) & (probabilities_nk <= 1)  # false for NaN
    # each of K values was rounded to half a unit of the last decimal
    slack = probabilities_nk.shape[1] * 0.5 * 10.0**-PROBABILITY_DECIMALS + 1e-5
    faulty = ~inside.all(axis=1) | (np.abs(probabilities_nk.sum(axis=1, dtype=np.float64) - 1) > slack)
    if faulty.any():
        row = int(np.flatnonzero(faulty)[0])
        raise ValueError(f"probabilities_nk row {row} is {probabilities_nk[row]}; allowed are 0..1 that sum to 1")
