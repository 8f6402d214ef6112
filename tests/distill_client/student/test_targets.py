import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from distill_client.student.targets import answered_rows, targets_from_values, top_classes

NAN = float("nan")


@settings(deadline=None)
@given(
    scores=arrays(np.float64, st.tuples(st.integers(1, 20), st.integers(2, 12)), elements=st.floats(0, 1)),
    decimals=st.integers(1, 6),
    k=st.integers(1, 12),
)
def test_rows_sum_to_one_whatever_was_disclosed(
    scores: np.ndarray[tuple[int, int], np.dtype[np.float64]], decimals: int, k: int
) -> None:
    shares = (scores + 0.01) / (scores + 0.01).sum(axis=1, keepdims=True)
    rounded = np.round(shares, decimals).astype(np.float32)
    hidden = np.argsort(-shares, axis=1, kind="stable")[:, k:]
    np.put_along_axis(rounded, hidden, np.float32(np.nan), axis=1)
    # A row of all that is there may be rounded to nothing at all; that is refused, see below.
    if (np.isnan(rounded).any(axis=1) | (np.nansum(rounded, axis=1) > 0)).all():
        targets_nk = targets_from_values(rounded, scores.shape[1])
        assert targets_nk.dtype == np.float32
        assert np.allclose(targets_nk.sum(axis=1), 1, atol=1e-5)
        assert (targets_nk >= 0).all()


def test_probabilities_lose_only_their_rounding_error() -> None:
    values = np.array([[0.333333, 0.333333, 0.333333], [0.2, 0.3, 0.5]], np.float32)
    targets_nk = targets_from_values(values, 3)
    assert np.allclose(targets_nk, np.array([[1 / 3, 1 / 3, 1 / 3], [0.2, 0.3, 0.5]]), atol=1e-6)


def test_the_mass_a_top_k_answer_hides_is_spread_evenly() -> None:
    values = np.array([[0.7, NAN, NAN, 0.1], [NAN, 0.4, NAN, NAN], [1.0, NAN, NAN, 0.0]], np.float32)
    targets_nk = targets_from_values(values, 4)
    expected = np.array([[0.7, 0.1, 0.1, 0.1], [0.2, 0.4, 0.2, 0.2], [1, 0, 0, 0]])
    assert np.allclose(targets_nk, expected, atol=1e-6)
    assert top_classes(values).tolist() == [0, 1, 0]


def test_named_classes_that_sum_to_more_than_one_leave_nothing_to_spread() -> None:
    values = np.array([[0.600001, 0.4, NAN]], np.float32)
    targets_nk = targets_from_values(values, 3)
    assert targets_nk[0, 2] == 0
    assert np.isclose(targets_nk.sum(), 1)


def test_labels_become_one_hot() -> None:
    labels_n = np.array([2, 0, 1], np.int64)
    assert targets_from_values(labels_n, 3).tolist() == [[0, 0, 1], [1, 0, 0], [0, 1, 0]]
    assert targets_from_values(labels_n, 3).dtype == np.float32
    assert top_classes(labels_n).tolist() == [2, 0, 1]
    assert targets_from_values(np.array([], np.int64), 3).shape == (0, 3)


@pytest.mark.parametrize("labels", [[0, 3], [-1, 2], [5], [-(2**62)]])
def test_labels_outside_the_classes_are_refused(labels: list[int]) -> None:
    with pytest.raises(ValueError, match="allowed are 0 to 2"):
        targets_from_values(np.array(labels, np.int64), 3)


def test_another_number_of_classes_is_refused() -> None:
    with pytest.raises(ValueError, match="2 columns; the teacher has 3"):
        targets_from_values(np.array([[0.5, 0.5]], np.float32), 3)


def test_an_answer_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="no class at all"):
        targets_from_values(np.array([[0.5, 0.5], [0, 0]], np.float32), 2)


@pytest.mark.parametrize("tail", ["spread", "lump"])
def test_an_answer_that_was_rejected_is_refused(tail: str) -> None:
    with pytest.raises(ValueError, match="no class at all"):
        targets_from_values(np.array([[0.5, 0.5], [NAN, NAN]], np.float32), 2, tail)  # type: ignore[arg-type]


def test_lumped_classes_stay_unknown_and_the_named_keep_their_probabilities() -> None:
    values = np.array([[0.7, NAN, NAN, 0.1], [0.25, 0.25, 0.5, 0.0], [0.9, 0.6, NAN, NAN]], np.float32)
    targets_nk = targets_from_values(values, 4, "lump")
    expected = np.array([[0.7, NAN, NAN, 0.1], [0.25, 0.25, 0.5, 0], [0.6, 0.4, NAN, NAN]])
    assert np.allclose(targets_nk, expected, atol=1e-6, equal_nan=True)


def test_rejected_answers_are_all_nan_or_minus_one_and_have_no_top_class() -> None:
    values = np.array([[NAN, NAN], [0.0, NAN], [0.2, 0.8]], np.float32)
    assert answered_rows(values).tolist() == [False, True, True]
    assert top_classes(values).tolist() == [-1, 0, 1]
    labels_n = np.array([0, -1, 2], np.int64)
    assert answered_rows(labels_n).tolist() == [True, False, True]
    assert top_classes(labels_n).tolist() == [0, -1, 2]


def test_the_first_of_equals_is_the_top_class() -> None:
    assert top_classes(np.array([[0.1, 0.45, 0.45], [NAN, NAN, 0.0]], np.float32)).tolist() == [1, 2]
