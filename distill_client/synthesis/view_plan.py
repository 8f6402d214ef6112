"""Which mixed views are made, drawn before the first query and without a look at a pixel."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from distill_client.config import ViewsConfig

LATTICE = 4  # points of a side whose displacements an elastic distortion interpolates


@dataclass(frozen=True)
class ViewPlan:
    """One row per image: pool images first_n and second_n (int64), the first one's share_n, and a transform of each.

    A transform is float64: angle (radians), scale, shear, the shifts across and down (fractions of a side), mirror
    (1 or -1). ``transforms_n2t`` holds the two of each image. ``displacements_n22kk``, float32, has those of a
    lattice's k x k points, for each of the two across and down, as fractions of a side; ``None`` distorts nothing.
    """

    first_n: NDArray[np.int64]
    second_n: NDArray[np.int64]
    share_n: NDArray[np.float64]
    transforms_n2t: NDArray[np.float64]
    displacements_n22kk: NDArray[np.float32] | None = None

    def __len__(self) -> int:
        return len(self.share_n)

    def part(self, start: int, stop: int) -> "ViewPlan":
        """The rows from ``start`` to before ``stop``."""
        rows = slice(start, stop)
        displacements = None if self.displacements_n22kk is None else self.displacements_n22kk[rows]
        return ViewPlan(
            self.first_n[rows], self.second_n[rows], self.share_n[rows], self.transforms_n2t[rows], displacements
        )


def draw_views(config: ViewsConfig, images: int, pool_images: int, rng: np.random.Generator) -> ViewPlan:
    """Draw ``images`` mixed views of a pool: each pool image is the first, and the second, equally often."""
    whole, rest = divmod(images, pool_images)

    def each_equally_often() -> NDArray[np.int64]:
        everyone = np.tile(np.arange(pool_images), whole)
        return rng.permutation(np.concatenate([everyone, rng.permutation(pool_images)[:rest]]))

    first, second = each_equally_often(), each_equally_often()
    share = rng.uniform(config.least_share, 1, images)
    drawn = rng.uniform(-1, 1, (images, 2, 6))
    bounds = (math.radians(config.rotate_degrees), config.scale_fraction, config.shear)
    transforms = drawn * np.array([*bounds, config.shift_fraction, config.shift_fraction, 1])
    transforms[..., 1] += 1
    transforms[..., 5] = np.where(config.flip & (drawn[..., 5] < 0), -1.0, 1.0)
    # Drawn last, and not at all without it: what plans drew before there was elastic distortion, they still draw.
    lattices = rng.uniform(-1, 1, (images, 2, 2, LATTICE, LATTICE)) if config.elastic_fraction else None
    displacements = None if lattices is None else (lattices * config.elastic_fraction).astype(np.float32)
    return ViewPlan(first, second, share, transforms, displacements)
