"""MixUp images (FS-BBT section 3.1): convex blends of two pool images."""

import math
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from distill_client.synthesis.quantise import quantise

# Bounds the float64 copies of a block of blends: 1,024 images of 32x32x3, or 20 of 224x224x3.
_BLOCK_VALUES = 1024 * 32 * 32 * 3


def mix_pairs(
    pool_nhwc: NDArray[np.uint8],
    first_n: NDArray[np.int64],
    second_n: NDArray[np.int64],
    lambda_n: NDArray[np.float64],
) -> Iterator[NDArray[np.uint8]]:
    """Blend lambda times pool image ``first`` with the rest of ``second``, row by row: uint8 images_nhwc in blocks.

    Computed in float64, so the same plan renders the same bytes on every machine.
    """
    block = max(1, _BLOCK_VALUES // math.prod(pool_nhwc.shape[1:]))
    for start in range(0, len(lambda_n), block):
        rows = slice(start, start + block)
        share = lambda_n[rows, None, None, None]
        yield quantise(share * pool_nhwc[first_n[rows]] + (1 - share) * pool_nhwc[second_n[rows]])
