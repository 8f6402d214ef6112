"""What leaves the building, for any probabilities."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_numpy
from numpy.typing import NDArray

from shared.wire.contracts import Disclosure
from teacher_server.disclosure import disclose

matrices = st_numpy.arrays(
    np.float32,
    st_numpy.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=8),
    elements=st.floats(0, 1, width=32) | st.sampled_from([0.0, 0.25, 0.5, 1e-7, 4.9e-7, 5.1e-7, 1.0]),
)


@given(matrices)
def test_probabilities_are_rounded_to_six_decimals_and_rounding_again_changes_nothing(
    probabilities_nk: NDArray[np.float32],
) -> None:
    before = probabilities_nk.copy()
    disclosed = disclose(probabilities_nk, Disclosure("probabilities"))
    assert disclosed.dtype == np.float32
    assert disclosed.shape == probabilities_nk.shape
    assert np.abs(disclosed.astype(np.float64) - probabilities_nk).max() <= 5e-7 + 6e-8
    meant = [[round(value, 6) for value in row] for row in disclosed.astype(np.float64).tolist()]
    assert np.array_equal(np.array(meant, np.float32), disclosed), "each is the float32 next to a 6-digit decimal"
    assert np.array_equal(disclose(disclosed.astype(np.float32), Disclosure("probabilities")), disclosed)
    assert np.array_equal(probabilities_nk, before)


@given(matrices, st.integers(1, 12))
def test_top_k_shows_the_k_largest_and_hides_the_rest(probabilities_nk: NDArray[np.float32], k: int) -> None:
    disclosed = disclose(probabilities_nk, Disclosure("top-k", k))
    whole = disclose(probabilities_nk, Disclosure("probabilities"))
    shown = ~np.isnan(disclosed)
    classes = probabilities_nk.shape[1]
    assert (shown.sum(axis=1) == min(k, classes)).all()
    assert np.array_equal(disclosed[shown], whole[shown])
    for row, is_shown in zip(probabilities_nk.tolist(), shown.tolist(), strict=True):
        ranked = sorted(range(classes), key=lambda label: (-row[label], label))
        assert sorted(ranked[:k]) == [label for label in range(classes) if is_shown[label]]


@given(matrices)
def test_a_label_is_the_first_of_the_largest(probabilities_nk: NDArray[np.float32]) -> None:
    disclosed = disclose(probabilities_nk, Disclosure("label"))
    assert disclosed.dtype == np.int64
    assert disclosed.tolist() == [row.index(max(row)) for row in probabilities_nk.tolist()]
    top_1 = disclose(probabilities_nk, Disclosure("top-k", 1))
    assert np.nanargmax(top_1, axis=1).tolist() == disclosed.tolist()


@pytest.mark.parametrize("text", ["probabilities", "label", "top-k:1", "top-k:10", "top-k:99999"])
def test_policies_are_read_as_they_are_written(text: str) -> None:
    assert str(Disclosure.parse(text)) == text


@pytest.mark.parametrize(
    "text", ["", "all", "top-k", "top-k:", "top-k:0", "top-k:-1", "top-k:01", "top-k:1.5", "top-k:100000", "Label",
             "label ", "label\n", "top-k:٣"],
)  # fmt: skip
def test_other_policies_are_refused_with_what_is_allowed(text: str) -> None:
    with pytest.raises(ValueError, match="allowed are probabilities, top-k:K"):
        Disclosure.parse(text)
