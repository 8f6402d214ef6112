"""Shifts and mirrors of whole batches: every image is the original, moved by at most what the recipe says."""

from typing import Literal

import numpy as np
import pytest
import torch

from teacher_server.training.augmentation import varied_batch
from teacher_server.training.recipes import Recipe

IMAGES = np.random.default_rng(0).integers(1, 256, (4, 6, 5, 3), np.uint8)
ROWS = torch.tensor([2, 0, 2, 3] * 120)


@pytest.mark.parametrize("fill", ["black", "edge"])
@pytest.mark.parametrize("flip", [False, True])
def test_every_image_is_the_original_moved_and_perhaps_mirrored(fill: Literal["black", "edge"], flip: bool) -> None:
    recipe = Recipe(epochs=1, shift_fraction=0.34, fill=fill, flip=flip)  # 2 of 6 rows, 2 of 5 columns
    bordered = np.pad(IMAGES, ((0, 0), (2, 2), (2, 2), (0, 0)), mode="edge" if fill == "edge" else "constant")

    batch = varied_batch(torch.tensor(IMAGES), ROWS, recipe, torch.Generator().manual_seed(0)).numpy()

    assert batch.dtype == np.uint8
    seen = set()
    for image, row in zip(batch, ROWS.tolist(), strict=True):
        found = [
            (dy, dx, mirrored)
            for dy in range(5)
            for dx in range(5)
            for mirrored in (False, True)
            if np.array_equal(image, bordered[row, dy : dy + 6, dx : dx + 5][:, :: -1 if mirrored else 1])
        ]
        assert len(found) == 1
        seen.add(found[0])
    assert len(seen) == (50 if flip else 25)  # 480 draws reach every offset with this seed


def test_without_variation_the_rows_are_the_images() -> None:
    batch = varied_batch(torch.tensor(IMAGES), ROWS, Recipe(epochs=1), torch.Generator())
    assert np.array_equal(batch.numpy(), IMAGES[ROWS.numpy()])
