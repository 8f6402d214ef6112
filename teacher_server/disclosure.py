"""What leaves the building: label, top-k or probabilities, rounded once and for all. Pure."""

import numpy as np
from numpy.typing import NDArray

from shared.wire.contracts import PROBABILITY_DECIMALS, Disclosure

Disclosed = NDArray[np.float32] | NDArray[np.int64]


def disclose(probabilities_nk: NDArray[np.float32], disclosure: Disclosure) -> Disclosed:
    """Reduce float32 probabilities_nk to what a key may see.

    ``probabilities``: float32 N x K. ``top-k:K``: the same, with NaN ("not disclosed") for all but the K largest
    of each row, the lower index first among equals. ``label``: int64 N. Probabilities are rounded to 6 decimals
    here, before they are stored, digested and sent, because computing twice may differ in later digits.
    """
    if disclosure.kind == "label":
        labels_n: NDArray[np.int64] = probabilities_nk.argmax(axis=1).astype(np.int64)
        return labels_n
    rounded = np.round(probabilities_nk.astype(np.float64), PROBABILITY_DECIMALS).astype(np.float32)
    if disclosure.kind == "top-k":
        ranks = np.argsort(-probabilities_nk, axis=1, kind="stable")
        np.put_along_axis(rounded, ranks[:, disclosure.k :], np.float32(np.nan), axis=1)
    return rounded
