"""What the student learns from: bought images, each with the teacher's answer to exactly those bytes."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from distill_client.errors import RunStoreError
from distill_client.teachers.paid.file import StoreFile
from distill_client.teachers.protocol import Values
from shared.datasets.allocation import allocate_images
from shared.wire.images import InvalidImages, answer_digest, decode_npy

# Of images that are read for training: more are mapped from a file, 1,783 images of 224x224x3 for example.
_MEMORY_BYTES_MAX = 1 << 28


@dataclass(frozen=True)
class LabelledImages:
    """uint8 images_nhwc and the teacher's values for exactly those bytes, row by row."""

    images_nhwc: NDArray[np.uint8]
    values: Values


def read_labelled(file: StoreFile, stages: tuple[str, ...], *, first: int = -1) -> LabelledImages:
    """The images of stages in their order, each with its answer, whichever stage bought it.

    With ``first`` only so many of each stage. Many images are mapped from an unnamed file beside the store.
    Raises RunStoreError when an answer is missing or damaged.
    """
    bought: list[tuple[int, int]] = []
    for stage in stages:
        rows = file.read(
            "SELECT images.batch, place FROM stage_images JOIN images USING (digest) "
            "WHERE stage = ? ORDER BY position LIMIT ?",
            stage,
            first,
        )
        if not rows:
            raise RunStoreError(f"{file.path}: stage {stage!r} holds no images")
        bought += rows
    answers = {batch: _read_values(file, batch) for batch in sorted({batch for batch, _ in bought})}
    values: Values = np.stack([answers[batch][place] for batch, place in bought])
    return LabelledImages(_read_images(file, stages, len(bought), first), values)


def _read_images(file: StoreFile, stages: tuple[str, ...], count: int, first: int) -> NDArray[np.uint8]:
    (shape,) = file.read("SELECT height, width, channels FROM stages WHERE name = ?", stages[0])
    images_nhwc = allocate_images((count, *shape), memory_bytes_max=_MEMORY_BYTES_MAX, folder=file.path.parent)
    row = 0
    for stage in stages:
        for (pixels,) in file.rows(
            "SELECT pixels FROM stage_images JOIN images USING (digest) WHERE stage = ? ORDER BY position LIMIT ?",
            stage,
            first,
        ):
            images_nhwc[row] = np.frombuffer(pixels, np.uint8).reshape(shape)
            row += 1
    return images_nhwc


def _read_values(file: StoreFile, batch: int) -> Values:
    rows = file.read("SELECT answer_npy, answer_digest FROM answers WHERE batch = ?", batch)
    if not rows:
        raise RunStoreError(f"{file.path}: batch {batch} has no answer yet; `distill resume` buys it")
    damaged = f"{file.path}: the answer to batch {batch} is damaged (`distill resume` fetches it again)"
    try:
        values = decode_npy(rows[0][0])
    except InvalidImages as error:
        raise RunStoreError(f"{damaged}: {error}") from error
    is_labels = values.dtype == np.int64
    typed: Values = values.astype(np.int64) if is_labels else values.astype(np.float32)
    if answer_digest(typed) != rows[0][1]:
        raise RunStoreError(f"{damaged}: its digest differs")
    return typed
