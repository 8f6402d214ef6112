"""Mixed views, our own synthetic images: MixUp of two pool images, each of them transformed at random first.

x = s T1(x1) + (1 - s) T2(x2), with s ~ U(least share, 1): one image dominates, so the teacher is asked about things
that look like things. Where FS-BBT varies its images after they are answered, the teacher here answers the variation.
"""

import math
from collections.abc import Iterator

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from distill_client.synthesis.quantise import quantise
from distill_client.synthesis.view_plan import ViewPlan

# Bounds the float64 copies of a block, as for plain blends.
_BLOCK_VALUES = 1024 * 32 * 32 * 3


def render_views(pool_nhwc: NDArray[np.uint8], plan: ViewPlan) -> Iterator[NDArray[np.uint8]]:
    """The planned images, uint8 images_nhwc in blocks; bilinear, and what enters is black. Computed in float64."""
    block = max(1, _BLOCK_VALUES // math.prod(pool_nhwc.shape[1:]))
    for start in range(0, len(plan), block):
        part = plan.part(start, start + block)
        share = part.share_n[:, None, None, None]
        lattices = part.displacements_n22kk
        one, other = (
            transform(
                pool_nhwc[rows], part.transforms_n2t[:, which], None if lattices is None else lattices[:, which]
            )
            for which, rows in enumerate((part.first_n, part.second_n))
        )
        yield quantise(share * one + (1 - share) * other)


def transform(
    images_nhwc: NDArray[np.uint8],
    transforms_nt: NDArray[np.float64],
    displacements_n2kk: NDArray[np.float32] | None = None,
) -> NDArray[np.float64]:
    """Each image under its own transform, float64 images_nhwc from 0 to 255.

    An elastic distortion reads each pixel elsewhere, as far as the displacements of the lattice's points, the corners
    of the image among them, say between them by bicubic interpolation. The idea is of Simard, Steinkraus and Platt
    ("Best Practices for Convolutional Neural Networks Applied to Visual Document Analysis", 2003, section 2), who
    smooth a displacement of every pixel.
    """
    height, width = images_nhwc.shape[1:3]
    images_nchw = torch.from_numpy(images_nhwc.astype(np.float64)).permute(0, 3, 1, 2)
    angle, scale, shear, across, down, mirror = torch.tensor(transforms_nt).unbind(dim=1)
    cosine, sine = torch.cos(angle) * scale, torch.sin(angle) * scale
    # affine_grid's unit is half a side, so a shift of f sides is 2 f, and a rotation in pixels is skewed by the side
    # ratio.
    row_x = torch.stack([mirror * cosine, (shear - mirror * sine) * (height / width), 2 * across], dim=1)
    row_y = torch.stack([sine * (width / height), cosine, 2 * down], dim=1)
    grid = F.affine_grid(torch.stack([row_x, row_y], dim=1), list(images_nchw.shape), align_corners=False)
    if displacements_n2kk is not None:
        lattices = torch.from_numpy(displacements_n2kk).double()
        field = F.interpolate(lattices, size=(height, width), mode="bicubic", align_corners=True)
        grid = grid + 2 * field.permute(0, 2, 3, 1)
    moved = F.grid_sample(images_nchw, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
    transformed: NDArray[np.float64] = moved.permute(0, 2, 3, 1).numpy()
    return transformed
