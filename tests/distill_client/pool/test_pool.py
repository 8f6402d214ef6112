import numpy as np
import pytest

from distill_client.config import PoolConfig
from distill_client.errors import ConfigError
from distill_client.pool import Candidates, draw_pool
from shared.wire.images import image_digests

CLASSES = 5


NAMES = tuple("abcde")


def make_candidates(images: int = 400, *, seed: int = 0) -> Candidates:
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 256, size=(images, 6, 4, 1), dtype=np.uint8)
    return Candidates("fake (train)", pixels, rng.permutation(np.arange(images) % CLASSES), NAMES)


def test_balanced_pool_spreads_the_remainder_and_is_shuffled() -> None:
    dataset = make_candidates()
    pool = draw_pool(PoolConfig(dataset="fake", images=53), dataset, NAMES, frozenset(), np.random.default_rng(1))
    assert pool.truth_n is not None
    assert dataset.truth_n is not None
    counts = np.bincount(pool.truth_n, minlength=CLASSES)
    assert pool.images_nhwc.shape == (53, 6, 4, 1)
    assert sorted(counts) == [10, 10, 11, 11, 11]
    assert len(set(pool.truth_n[:10])) > 1
    assert pool.class_names == tuple("abcde")
    truth_of = dict(zip(image_digests(dataset.images_nhwc), dataset.truth_n, strict=True))
    assert [truth_of[digest] for digest in image_digests(pool.images_nhwc)] == list(pool.truth_n)


@pytest.mark.parametrize("balanced", [True, False])
def test_pool_never_holds_a_forbidden_or_repeated_image(balanced: bool) -> None:
    once = make_candidates(100)
    assert once.truth_n is not None
    dataset = Candidates("fake", np.tile(once.images_nhwc, (3, 1, 1, 1)), np.tile(once.truth_n, 3), NAMES)
    forbidden = frozenset(image_digests(once.images_nhwc[:25]))
    config = PoolConfig(dataset="fake", images=40, balanced=balanced)
    for seed in range(20):
        pool = draw_pool(config, dataset, NAMES, forbidden, np.random.default_rng(seed))
        digests = image_digests(pool.images_nhwc)
        assert len(set(digests)) == 40
        assert forbidden.isdisjoint(digests)


def test_equal_generators_draw_equal_pools() -> None:
    config, dataset = PoolConfig(dataset="fake", images=30), make_candidates()
    one, same, other = (draw_pool(config, dataset, NAMES, frozenset(), np.random.default_rng(s)) for s in (7, 7, 8))
    assert np.array_equal(one.images_nhwc, same.images_nhwc)
    assert not np.array_equal(one.images_nhwc, other.images_nhwc)


def test_too_few_images_names_the_key_and_what_there_is() -> None:
    dataset = make_candidates(100)  # 20 of each class
    assert dataset.truth_n is not None
    forbidden = frozenset(image_digests(dataset.images_nhwc[dataset.truth_n == 2][:8]))
    for balanced, available in ((True, 5 * 12), (False, 92)):
        rng = np.random.default_rng(0)
        draw_pool(PoolConfig(dataset="fake", images=available, balanced=balanced), dataset, NAMES, forbidden, rng)
        with pytest.raises(ConfigError, match=rf"pool\.images is {available + 1}; at most {available} ") as caught:
            draw_pool(
                PoolConfig(dataset="fake", images=available + 1, balanced=balanced), dataset, NAMES, forbidden, rng
            )
        assert caught.value.exit_code == 2
