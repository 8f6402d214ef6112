import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distill_client.synthesis import mixup
from distill_client.synthesis.quantise import quantise


def mix_pairs(pool: np.ndarray, *plan: np.ndarray) -> np.ndarray:
    return np.concatenate([np.empty((0, *pool.shape[1:]), np.uint8), *mixup.mix_pairs(pool, *plan)])


def draw(seed: int, rows: int) -> tuple[np.random.Generator, np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    pool = rng.integers(0, 256, size=(7, 4, 5, 3), dtype=np.uint8)
    return rng, pool, rng.integers(7, size=rows), rng.integers(7, size=rows)


@given(seed=st.integers(0, 2**32), rows=st.integers(0, 40))
@settings(max_examples=50, deadline=None)
def test_a_blend_lies_between_its_two_images_and_near_the_exact_value(seed: int, rows: int) -> None:
    rng, pool, first, second = draw(seed, rows)
    share = np.round(rng.random(rows), 2)
    mixed = mix_pairs(pool, first, second, share)
    assert mixed.dtype == np.uint8
    assert mixed.shape == (rows, 4, 5, 3)
    assert np.all(mixed >= np.minimum(pool[first], pool[second]))
    assert np.all(mixed <= np.maximum(pool[first], pool[second]))
    weight = share[:, None, None, None]
    exact = weight * pool[first] + (1 - weight) * pool[second]
    assert np.all(np.abs(mixed - exact) <= 0.5 + 1e-9)


def test_the_ends_are_the_images_themselves_over_many_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mixup, "_BLOCK_VALUES", 1000 * 4 * 5 * 3)
    _, pool, first, second = draw(1, 3_000)
    assert np.array_equal(mix_pairs(pool, first, second, np.ones(3_000)), pool[first])
    assert np.array_equal(mix_pairs(pool, first, second, np.zeros(3_000)), pool[second])


def test_large_images_are_blended_a_few_at_a_time_and_huge_ones_one_by_one() -> None:
    rows = np.arange(50) % 7
    blocks = {
        side: [len(block) for block in mixup.mix_pairs(np.zeros((7, side, side, 3), np.uint8), rows, rows, rows / 7)]
        for side in (224, 1100)
    }
    assert blocks == {224: [20, 20, 10], 1100: [1] * 50}


def test_halves_round_to_even_and_the_ends_clip() -> None:
    assert quantise(np.array([-3.0, 0.5, 1.5, 2.5, 254.5, 255.4, 999.0])).tolist() == [0, 0, 2, 2, 254, 255, 255]


def test_a_diverged_generator_is_not_quantised() -> None:
    with pytest.raises(ValueError, match="NaN"):
        quantise(np.array([1.0, np.nan]))
