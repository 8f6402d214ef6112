"""MixUp images (FS-BBT section 3.1): convex blends of two pool images."""

import numpy as np
from numpy.typing import NDArray

from distill_client.synthesis.quantise import quantise

# Bounds the float64 copy of the blends: 1,024 images of 32x32x3 take 25 MB.
_BLOCK = 1024


def mix_pairs(
    pool_nhwc: NDArray[np.uint8],
    first_n: NDArray[np.int64],
    second_n: NDArray[np.int64],
    lambda_n: NDArray[np.float64],
) -> NDArray[np.uint8]:
    """Blend lambda times pool image ``first`` with the rest of ``second``, row by row, into uint8 images_nhwc.

    Computed in float64, so the same plan renders the same bytes on every machine.
    """
    mixed_nhwc = np.empty((len(lambda_n), *pool_nhwc.shape[1:]), dtype=np.uint8)
    for start in range(0, len(lambda_n), _BLOCK):
        rows = slice(start, start + _BLOCK)
        share = lambda_n[rows, None, None, None]
        mixed_nhwc[rows] = quantise(share * pool_nhwc[first_n[rows]] + (1 - share) * pool_nhwc[second_n[rows]])
    return mixed_nhwc
