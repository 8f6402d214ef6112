import numpy as np
import pytest

from distill_client.synthesis.class_balance import choose_balanced, class_quotas


def probabilities(top_n: list[int], second: dict[int, tuple[int, float]], classes: int = 3) -> np.ndarray:
    """0.6 for each row's top class; ``second`` gives some rows another class and its probability."""
    rows_nk = np.zeros((len(top_n), classes), dtype=np.float32)
    rows_nk[np.arange(len(top_n)), top_n] = 0.6
    for row, (label, probability) in second.items():
        rows_nk[row, label] = probability
    return rows_nk


@pytest.mark.parametrize(
    ("images", "classes", "quotas"), [(9, 3, [3, 3, 3]), (11, 3, [4, 4, 3]), (2, 3, [1, 1, 0]), (0, 2, [0, 0])]
)
def test_quotas_are_equal_to_within_one(images: int, classes: int, quotas: list[int]) -> None:
    assert class_quotas(images, classes).tolist() == quotas


def test_the_first_of_every_class_are_chosen_in_their_order() -> None:
    rows_nk = probabilities([0, 0, 0, 1, 2, 0, 1, 2, 2], {})
    assert choose_balanced(rows_nk, class_quotas(6, 3)).tolist() == [0, 1, 3, 4, 6, 7]


def test_a_class_that_has_too_few_gets_those_that_show_it_most_probably() -> None:
    rows_nk = probabilities([0, 0, 0, 0, 1, 1, 2], {2: (2, 0.1), 3: (2, 0.3), 1: (2, 0.4)})
    # Row 6 alone is of class 2; of what is left, 2 and 3, the latter shows it more. Row 1 is taken by class 0.
    assert choose_balanced(rows_nk, class_quotas(6, 3)).tolist() == [0, 1, 3, 4, 5, 6]


def test_nobody_shows_a_class_and_its_quota_is_filled_all_the_same() -> None:
    rows_nk = probabilities([0] * 10, {7: (1, 0.2)})
    chosen_n = choose_balanced(rows_nk, class_quotas(9, 3))
    assert len(set(chosen_n.tolist())) == 9
    assert 7 in chosen_n


def test_too_few_candidates_are_refused() -> None:
    with pytest.raises(ValueError, match="4 images cannot be chosen of 3 candidates"):
        choose_balanced(probabilities([0, 1, 2], {}), class_quotas(4, 3))
