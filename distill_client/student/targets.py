"""From what a teacher disclosed to what a student is trained on."""

import numpy as np
from numpy.typing import NDArray

from distill_client.config import Tail


def answered_rows(values: NDArray[np.float32] | NDArray[np.int64]) -> NDArray[np.bool_]:
    """Which answers say anything: not those rejected by a label map, all NaN or label -1; bool N."""
    if values.ndim == 1:
        return values >= 0
    return np.logical_not(np.isnan(values).all(axis=1))


def targets_from_values(
    values: NDArray[np.float32] | NDArray[np.int64], classes: int, tail: Tail = "spread"
) -> NDArray[np.float32]:
    """Turn disclosed values into target distributions, float32 targets_nk whose rows sum to one.

    Probabilities lose only their rounding error. A top-k answer (NaN elsewhere) keeps its probabilities; the mass
    that is missing is spread evenly over the classes it does not name, or, with "lump", these stay NaN, and what a
    row lacks of one is theirs together. A label becomes one-hot.
    Raises ValueError for a label outside 0 to ``classes`` - 1, another number of columns, or an answer of nothing.
    """
    if values.ndim == 1:
        if len(values) and not (int(values.min()) >= 0 and int(values.max()) < classes):
            raise ValueError(f"labels reach from {values.min()} to {values.max()}; allowed are 0 to {classes - 1}")
        one_hot_nk: NDArray[np.float32] = np.eye(classes, dtype=np.float32)[values.astype(np.int64)]
        return one_hot_nk
    if values.shape[1] != classes:
        raise ValueError(f"answers have {values.shape[1]} columns; the teacher has {classes} classes")
    hidden_nk = np.isnan(values)
    known_nk = np.where(hidden_nk, 0.0, values).astype(np.float64)
    missing_n = np.clip(1.0 - known_nk.sum(axis=1, keepdims=True), 0.0, None)
    hidden_n = hidden_nk.sum(axis=1, keepdims=True)
    spread_nk = np.where(hidden_nk, missing_n / np.maximum(hidden_n, 1), known_nk)
    if not (answered_rows(values) & (spread_nk.sum(axis=1) > 0)).all():
        raise ValueError("an answer gives probability to no class at all")
    spread_nk /= spread_nk.sum(axis=1, keepdims=True)
    if tail == "lump":
        spread_nk[hidden_nk] = np.nan
    targets_nk: NDArray[np.float32] = spread_nk.astype(np.float32)
    return targets_nk


def top_classes(values: NDArray[np.float32] | NDArray[np.int64]) -> NDArray[np.int64]:
    """The teacher's top class of each image, int64 N; -1 for a rejected answer."""
    if values.ndim == 1:
        return values.astype(np.int64)
    labels_n: NDArray[np.int64] = np.nan_to_num(values, nan=-1.0).argmax(axis=1).astype(np.int64)
    labels_n[~answered_rows(values)] = -1
    return labels_n
