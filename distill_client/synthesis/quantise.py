"""The one way from real-valued pixels to bytes: what is bought, stored and trained on is the same uint8 image."""

import numpy as np
from numpy.typing import NDArray


def quantise(levels: NDArray[np.floating]) -> NDArray[np.uint8]:
    """Round pixel levels (0 to 255, any shape) to uint8: half to even, clipped at both ends.

    Raises ValueError when a level is not a number.
    """
    if np.isnan(levels).any():
        raise ValueError("pixel levels hold NaN; the generator that made them has diverged")
    rounded: NDArray[np.uint8] = np.rint(levels).clip(0, 255).astype(np.uint8)
    return rounded
