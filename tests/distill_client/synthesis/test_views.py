import dataclasses
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from distill_client.config import ViewsConfig
from distill_client.synthesis.mixup import mix_pairs
from distill_client.synthesis.view_plan import ViewPlan, draw_views
from distill_client.synthesis.views import render_views, transform

STILL = np.array([0.0, 1.0, 0.0, 0.0, 0.0, 1.0])  # angle, scale, shear, across, down, mirror
# One bright pixel per image, off every axis of symmetry.
POOL = np.zeros((3, 8, 10, 1), dtype=np.uint8)
POOL[0, 1, 2] = POOL[1, 6, 3] = POOL[2, 4, 8] = 200


def moved(**changes: float) -> NDArray[np.float64]:
    """The first image under one transform, H x W, the rest of which is at rest."""
    names = ("angle", "scale", "shear", "across", "down", "mirror")
    row = [changes.get(name, rest) for name, rest in zip(names, STILL, strict=True)]
    result: NDArray[np.float64] = transform(POOL[:1], np.array([row]))[0, :, :, 0]
    return result


def brightest(image_hw: NDArray[np.float64]) -> tuple[int, ...]:
    return tuple(int(index) for index in np.unravel_index(image_hw.argmax(), image_hw.shape))


def test_nothing_moves_under_the_transform_that_does_nothing() -> None:
    assert np.allclose(moved(), POOL[0, :, :, 0])


def test_each_part_of_a_transform_does_what_it_is_called() -> None:
    assert brightest(moved(across=0.2)) == (1, 0)  # looks 0.2 sides to the right, so things go to the left
    assert brightest(moved(down=-0.25)) == (3, 2)
    assert brightest(moved(mirror=-1)) == (1, 7)
    assert brightest(moved(angle=math.pi)) == (6, 7)
    wide = np.full((1, 8, 8, 1), 255, dtype=np.uint8)
    shrunk = transform(wide, np.array([[0.0, 2.0, 0.0, 0.0, 0.0, 1.0]]))[0, :, :, 0]
    assert shrunk[0, 0] == 0  # what enters is black
    assert shrunk[4, 4] == 255
    assert 0.2 < (shrunk > 0).mean() < 0.6


def test_an_elastic_distortion_moves_what_its_lattice_moves() -> None:
    still = np.zeros((1, 2, 4, 4), dtype=np.float32)
    assert np.array_equal(transform(POOL[:1], STILL[None], still), transform(POOL[:1], STILL[None]))
    across, down = still.copy(), still.copy()
    across[:, 0], down[:, 1] = 0.2, -0.25  # all of it as far: a shift
    assert np.allclose(transform(POOL[:1], STILL[None], across)[0, :, :, 0], moved(across=0.2))
    assert np.allclose(transform(POOL[:1], STILL[None], down)[0, :, :, 0], moved(down=-0.25))

    grey = np.random.default_rng(5).integers(0, 256, (1, 28, 28, 1), dtype=np.uint8)
    corner = still.copy()
    corner[0, :, 0, 0] = 0.1
    changed = np.abs(transform(grey, STILL[None], corner) - transform(grey, STILL[None])).max(axis=(0, 3)) > 1
    assert changed[:5, :5].mean() > 0.8
    assert not changed[20:].any()
    assert not changed[:, 20:].any()


def test_an_elastic_distortion_is_drawn_after_all_else_and_within_its_bound() -> None:
    with_it, without = (
        draw_views(ViewsConfig(elastic_fraction=fraction), 50, 7, np.random.default_rng(8)) for fraction in (0.12, 0)
    )
    assert without.displacements_n22kk is None
    assert np.array_equal(with_it.transforms_n2t, without.transforms_n2t)
    assert np.array_equal(with_it.share_n, without.share_n)
    assert with_it.displacements_n22kk is not None
    assert with_it.displacements_n22kk.shape == (50, 2, 2, 4, 4)
    assert 0.11 < np.abs(with_it.displacements_n22kk).max() <= 0.12
    assert len(np.unique(with_it.displacements_n22kk)) == 50 * 64


def test_a_rotation_is_a_rotation_in_pixels_whatever_the_sides() -> None:
    image = np.zeros((1, 9, 21, 1), dtype=np.uint8)
    image[0, 4, 13] = 255  # three to the right of the middle
    turned = transform(image, np.array([[math.pi / 2, 1.0, 0.0, 0.0, 0.0, 1.0]]))[0, :, :, 0]
    assert brightest(turned) in {(1, 10), (7, 10)}  # three above or below it


@given(
    images=st.integers(0, 200),
    pool_images=st.integers(1, 50),
    seed=st.integers(0, 2**63 - 1),
    flip=st.booleans(),
    least=st.floats(0, 1),
)
@settings(max_examples=40, deadline=None)
def test_what_is_drawn_is_within_its_bounds(
    images: int, pool_images: int, seed: int, flip: bool, least: float
) -> None:
    config = ViewsConfig(least_share=least, rotate_degrees=20, shift_fraction=0.1, scale_fraction=0.2, flip=flip)
    plan = draw_views(config, images, pool_images, np.random.default_rng(seed))
    assert len(plan) == images
    for chosen in (plan.first_n, plan.second_n):
        counts = np.bincount(chosen, minlength=pool_images)
        assert len(counts) == pool_images
        assert counts.max() - counts.min() <= 1
    assert ((plan.share_n >= least) & (plan.share_n <= 1)).all()
    angle, scale, shear, across, down, mirror = np.moveaxis(plan.transforms_n2t, -1, 0)
    assert (np.abs(angle) <= math.radians(20)).all()
    assert (np.abs(scale - 1) <= 0.2 + 1e-12).all()
    assert (np.abs(shear) <= config.shear).all()
    assert (np.abs([across, down]) <= 0.1).all()
    assert set(mirror.ravel()) <= ({-1.0, 1.0} if flip else {1.0})


def test_views_of_a_pool_at_rest_are_plain_blends() -> None:
    rng = np.random.default_rng(3)
    pool = rng.integers(0, 256, (5, 8, 8, 3), dtype=np.uint8)
    plan = draw_views(ViewsConfig(), 12, 5, rng)
    still = dataclasses.replace(plan, transforms_n2t=np.broadcast_to(STILL, plan.transforms_n2t.shape))
    ours = np.concatenate(list(render_views(pool, still)))
    plain = np.concatenate(list(mix_pairs(pool, plan.first_n, plan.second_n, plan.share_n)))
    assert ours.dtype == np.uint8
    assert (
        np.abs(ours.astype(int) - plain).max() <= 1
    )  # bilinear sampling at the pixels themselves is exact to rounding


@pytest.mark.parametrize("elastic", [0.0, 0.1])
def test_rendering_is_repeatable_and_each_row_is_its_own(elastic: float, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(4)
    pool = rng.integers(0, 256, (6, 12, 12, 1), dtype=np.uint8)
    plan = draw_views(ViewsConfig(flip=True, elastic_fraction=elastic), 40, 6, rng)
    whole = np.concatenate(list(render_views(pool, plan)))
    assert len(np.unique(whole.reshape(40, -1), axis=0)) == 40
    monkeypatch.setattr("distill_client.synthesis.views._BLOCK_VALUES", 7 * 144)
    blocks = list(render_views(pool, plan))
    assert [len(block) for block in blocks] == [7, 7, 7, 7, 7, 5]
    assert np.array_equal(np.concatenate(blocks), whole)
    parts = [np.concatenate(list(render_views(pool, plan.part(*rows)))) for rows in ((0, 13), (13, 40))]
    assert np.array_equal(np.concatenate(parts), whole)


def test_equal_seeds_draw_equal_views() -> None:
    def drawn(seed: int) -> ViewPlan:
        return draw_views(ViewsConfig(), 30, 7, np.random.default_rng(seed))

    assert np.array_equal(drawn(1).transforms_n2t, drawn(1).transforms_n2t)
    assert not np.array_equal(drawn(1).transforms_n2t, drawn(2).transforms_n2t)
