"""What the answers to a pool say of it: the measures by hand, what they are told of, and what they cannot tell."""

import numpy as np
import pytest
from numpy.typing import NDArray

from distill_client.pool import measure_fit
from distill_client.pool.fit import effective_classes
from shared.wire.contracts import TeacherCard
from tests.distill_client.fakes import FakeTeacher


def card(disclosure: str = "probabilities", accuracy: float | None = 0.9) -> TeacherCard:
    return FakeTeacher(disclosure=disclosure).card().model_copy(update={"test_accuracy": accuracy})


def answers(labels_n: NDArray[np.int64], top: float, classes: int = 10) -> NDArray[np.float32]:
    """``top`` for the label's class, the rest shared by the others."""
    values_nk = np.full((len(labels_n), classes), (1 - top) / (classes - 1), np.float32)
    values_nk[np.arange(len(labels_n)), labels_n] = top
    return values_nk


EVEN = np.arange(200) % 10
CROWDED = np.where(np.arange(200) % 10 < 6, 8, EVEN)  # six tenths are of one class, the others of 9, 6, 7 and 8


def test_a_pool_like_the_teachers_own_test_set_fits() -> None:
    fit = measure_fit(answers(EVEN, 0.93), card())
    assert fit.faults == ()
    assert fit.confidence == pytest.approx(0.93)
    assert fit.effective_classes == pytest.approx(10)
    assert (fit.images, fit.rejected, fit.classes, fit.teacher_accuracy) == (200, 0, 10, 0.9)
    assert fit.as_summary()["warnings"] == []


@pytest.mark.parametrize(
    ("top", "accuracy", "is_unsure"), [(0.81, 0.9, False), (0.79, 0.9, True), (0.79, 0.85, False)]
)
def test_a_teacher_less_sure_than_it_is_right_is_told(top: float, accuracy: float, is_unsure: bool) -> None:
    (*told,) = measure_fit(answers(EVEN, top), card(accuracy=accuracy)).faults
    assert len(told) == is_unsure
    assert all("probability of 79.0% on average, its accuracy is 90.0%" in fault for fault in told)


@pytest.mark.parametrize(("top", "is_unsure"), [(0.51, False), (0.49, True)])
def test_where_no_accuracy_is_told_the_top_class_must_have_half(top: float, is_unsure: bool) -> None:
    assert len(measure_fit(answers(EVEN, top), card(accuracy=None)).faults) == is_unsure


def test_few_answers_may_be_unsure_by_chance() -> None:
    wavering = np.concatenate([answers(EVEN[:4], 0.4), answers(EVEN[4:8], 0.999)])
    assert measure_fit(wavering, card()).faults == ()
    assert len(measure_fit(np.tile(wavering, (25, 1)), card()).faults) == 1


@pytest.mark.parametrize("disclosure", ["probabilities", "top-k:1", "label"])
def test_crowded_classes_are_told_whatever_is_disclosed(disclosure: str) -> None:
    values = answers(CROWDED, 0.99)
    if disclosure == "top-k:1":
        values[values < 0.5] = np.nan
    fit = measure_fit(CROWDED if disclosure == "label" else values, card(disclosure))
    (told,) = fit.faults
    assert "its 10 classes as unevenly as if there were 2.6 of them" in told
    assert "70% of these images are '8'; 6 less often than a tenth of an even share" in told
    assert (fit.confidence is None) is (disclosure == "label")


def test_classes_are_not_counted_on_fewer_than_five_images_each() -> None:
    assert measure_fit(CROWDED[:50], card("label")).effective_classes is not None
    few = measure_fit(CROWDED[:49], card("label"))
    assert (few.effective_classes, few.faults) == (None, ())


@pytest.mark.parametrize("policy", ["probabilities;temperature=4;decimals=6", "probabilities;noise=0.5;decimals=6"])
def test_probabilities_that_a_policy_changed_do_not_tell_how_sure_the_teacher_is(policy: str) -> None:
    fit = measure_fit(answers(EVEN, 0.3), card(policy))
    assert (fit.confidence, fit.faults) == (None, ())


def test_rejected_answers_are_left_out_and_told_when_they_are_most() -> None:
    values = answers(EVEN, 0.93)
    values[:100] = np.nan
    half = measure_fit(values, card())
    assert (half.images, half.rejected, half.faults) == (100, 100, ())
    values[100] = np.nan
    assert measure_fit(values, card()).faults == ("101 of 200 answers name none of the run's classes",)
    labels = np.where(np.arange(200) < 101, -1, EVEN)
    assert len(measure_fit(labels, card("label")).faults) == 1


def test_effective_classes_are_what_the_entropy_says_without_what_few_images_hide() -> None:
    assert effective_classes(np.array([5, 5, 0, 0])) == pytest.approx(2 * np.exp(1 / 20))
    assert effective_classes(np.array([100_000, 0, 0])) == pytest.approx(1)
    assert effective_classes(np.array([7, 7, 7])) == 3  # never more than there are
    rng = np.random.default_rng(0)
    drawn = [effective_classes(np.bincount(rng.integers(100, size=500), minlength=100)) for _ in range(50)]
    assert np.mean(drawn) == pytest.approx(100, abs=1.5)
