import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from distill_client.config import ActiveConfig
from distill_client.student.evaluation import predict_probabilities
from distill_client.synthesis import active
from distill_client.synthesis.active import choose, draw_candidates, least_confident, shares
from distill_client.synthesis.mixup import mix_pairs


def test_the_published_grid_has_eleven_shares() -> None:
    assert shares(ActiveConfig()).tolist() == [0.3, 0.34, 0.38, 0.42, 0.46, 0.5, 0.54, 0.58, 0.62, 0.66, 0.7]
    assert shares(ActiveConfig(least_share=0.5, most_share=0.5)).tolist() == [0.5]
    assert shares(ActiveConfig(least_share=0.1, most_share=0.35, share_step=0.1)).tolist() == [0.1, 0.2, 0.3]


@given(pool_images=st.integers(2, 60), share=st.floats(0, 1), seed=st.integers(0, 2**32))
@settings(max_examples=60, deadline=None)
def test_candidates_are_different_pairs_of_different_images(pool_images: int, share: float, seed: int) -> None:
    pairs = pool_images * (pool_images - 1) // 2
    count = max(1, round(share * pairs))
    drawn = draw_candidates(count, pool_images, np.random.default_rng(seed))
    assert drawn.dtype == np.int64
    assert len(set(map(tuple, drawn.tolist()))) == len(drawn) == count
    assert (drawn[:, 0] < drawn[:, 1]).all()
    assert drawn.min() >= 0
    assert drawn.max() < pool_images


def test_all_pairs_are_taken_where_there_are_no_more() -> None:
    drawn = draw_candidates(1_000, 20, np.random.default_rng(1))
    assert set(map(tuple, drawn.tolist())) == {(one, other) for other in range(20) for one in range(other)}


def test_pairs_of_a_large_pool_are_numbered_right(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a float's root is not exact any more: the first and the last pair of the highest image."""
    pool_images = 2**27
    first = (pool_images - 1) * (pool_images - 2) // 2

    class Fixed:
        def choice(self, *_: object, **__: object) -> object:
            return np.array([first - 1, first, first + pool_images - 2])

    drawn = draw_candidates(3, pool_images, Fixed())  # type: ignore[arg-type]  # draws what the test says
    highest = pool_images - 1
    assert drawn.tolist() == [[highest - 2, highest - 1], [0, highest], [highest - 1, highest]]


def test_each_candidate_stands_for_its_least_sure_blend(monkeypatch: pytest.MonkeyPatch) -> None:
    """Against every blend rendered and predicted one by one, in batches that do not fit evenly."""
    monkeypatch.setattr(active, "_BATCH_IMAGES", 4)
    generator = torch.Generator().manual_seed(3)
    student = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Dropout(0.5), torch.nn.Linear(27, 5))
    with torch.no_grad():
        for parameter in student.parameters():
            parameter.normal_(generator=generator)
    pool = np.random.default_rng(4).integers(0, 256, (6, 3, 3, 3), dtype=np.uint8)
    candidates, grid = draw_candidates(15, 6, np.random.default_rng(5)), shares(ActiveConfig())
    confidence_n, place_n = least_confident(student, pool, candidates, grid)
    blends = [
        np.concatenate(list(mix_pairs(pool, candidates[:, 0], candidates[:, 1], np.full(15, share))))
        for share in grid
    ]
    confidences_sn = np.stack([predict_probabilities(student, images).max(axis=1) for images in blends])
    assert np.array_equal(place_n, confidences_sn.argmin(axis=0))
    assert np.allclose(confidence_n, confidences_sn.min(axis=0), atol=1e-3)  # a level more or less in a pixel
    assert len(set(place_n.tolist())) > 1


def test_the_least_confident_that_are_left_are_chosen_in_order() -> None:
    confidence_n = np.array([0.9, 0.2, 0.5, 0.2, 0.3], dtype=np.float32)
    is_taken_n = np.array([False, True, False, False, False])
    assert choose(confidence_n, is_taken_n, 3).tolist() == [3, 4, 2]
    assert choose(confidence_n, np.zeros(5, dtype=bool), 2).tolist() == [1, 3]  # of equal ones the first
