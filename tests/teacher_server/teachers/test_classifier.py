"""Rows and their owners: order, batching, threads, and images that are not the teacher's."""

import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from teacher_server.teachers.bundle import Bundle, load_network
from teacher_server.teachers.classifier import Classifier, ClassifierFault, load_classifier, suitable_rows
from tests.teacher_server.teachers.conftest import MakeBundle


@pytest.fixture
def lively(make_bundle: MakeBundle) -> Bundle:
    """Untrained weights large enough that no two rows of noise get nearly the same answer."""
    return make_bundle(weights_scale=2.0)


def random_images(count: int, *, channels: int = 1, seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (count, 28, 28, channels), np.uint8)


def reference(bundle: Bundle, images_nhwc: NDArray[np.uint8]) -> NDArray[np.float64]:
    """The answer the long way round: one image at a time, float64, plain contiguous NCHW."""
    network = load_network(bundle).double()
    spec = bundle.manifest.input
    scaled = (images_nhwc / 255 - np.array(spec.mean)) / np.array(spec.std)
    with torch.no_grad():
        rows = [network(torch.tensor(image.transpose(2, 0, 1)[None].copy())).softmax(1)[0] for image in scaled]
    return torch.stack(rows).numpy()


def test_a_torch_classifier_is_a_classifier(bundle: Bundle) -> None:
    classifier: Classifier = load_classifier(bundle)
    assert classifier.classes == 10


@pytest.mark.parametrize(("channels", "mean", "std"), [(1, 0.0, 1.0), (1, 0.286, 0.353), (3, 0.5, 0.25)])
def test_probabilities_are_the_networks(make_bundle: MakeBundle, channels: int, mean: float, std: float) -> None:
    bundle = make_bundle(channels=channels, mean=mean, std=std)
    images_nhwc = random_images(7, channels=channels)

    probabilities_nk = load_classifier(bundle).probabilities(images_nhwc)

    assert probabilities_nk.dtype == np.float32
    np.testing.assert_allclose(probabilities_nk, reference(bundle, images_nhwc), atol=1e-5)
    np.testing.assert_allclose(probabilities_nk.sum(axis=1), 1, atol=1e-5)


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_every_row_returns_to_its_owner_whatever_batch_it_came_in(lively: Bundle, data: st.DataObject) -> None:
    """Architecture decision 15: order is kept, and the batch a row was in moves it by less than 1e-5."""
    count = data.draw(st.integers(1, 40))
    order = np.array(data.draw(st.permutations(range(count))))
    rows_per_batch = data.draw(st.integers(1, 17))
    images_nhwc = random_images(count, seed=data.draw(st.integers(0, 5)))

    one_at_a_time = load_classifier(lively, rows_per_batch=1).probabilities(images_nhwc)
    batched = load_classifier(lively, rows_per_batch=rows_per_batch).probabilities(images_nhwc[order])

    np.testing.assert_allclose(batched, one_at_a_time[order], rtol=0, atol=1e-5)


def test_rows_differ_enough_for_these_tests_to_mean_something(lively: Bundle) -> None:
    probabilities_nk = load_classifier(lively).probabilities(random_images(40))
    distances = np.abs(probabilities_nk[:, None] - probabilities_nk[None]).max(axis=2)
    assert distances[~np.eye(40, dtype=bool)].min() > 1e-4


def test_callers_from_many_threads_each_get_their_own_rows(lively: Bundle) -> None:
    classifier = load_classifier(lively, rows_per_batch=8)
    requests = [random_images(1 + 5 * index, seed=index) for index in range(8)]
    expected = [classifier.probabilities(images_nhwc) for images_nhwc in requests]
    together = threading.Barrier(8)

    def ask(images_nhwc: NDArray[np.uint8]) -> NDArray[np.float32]:
        together.wait(timeout=10)
        return classifier.probabilities(images_nhwc)

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(ask, requests))

    for answer, wanted in zip(answers, expected, strict=True):
        np.testing.assert_allclose(answer, wanted, rtol=0, atol=1e-5)


def test_read_only_and_strided_images_are_taken_and_left_alone(bundle: Bundle) -> None:
    classifier, images_nhwc = load_classifier(bundle), random_images(6)
    expected = classifier.probabilities(images_nhwc)
    untouched = images_nhwc.copy()
    images_nhwc.flags.writeable = False

    np.testing.assert_array_equal(classifier.probabilities(images_nhwc), expected)
    np.testing.assert_array_equal(classifier.probabilities(np.asfortranarray(images_nhwc)), expected)
    np.testing.assert_allclose(classifier.probabilities(images_nhwc[::-2]), expected[::-2], atol=1e-5)
    np.testing.assert_array_equal(images_nhwc, untouched)


@pytest.mark.parametrize(
    ("side", "device", "rows"),
    [(28, "cpu", 256), (64, "cpu", 256), (224, "cpu", 41), (4096, "cpu", 1), (224, "cuda:1", 256), (4096, "cuda", 1)],
)
def test_large_images_go_through_in_smaller_batches(bundle: Bundle, side: int, device: str, rows: int) -> None:
    size = bundle.manifest.input.model_copy(update={"height": side, "width": side})
    assert suitable_rows(bundle.manifest.model_copy(update={"input": size}), device) == rows


def test_no_images_give_no_rows(bundle: Bundle) -> None:
    assert load_classifier(bundle).probabilities(random_images(0)).shape == (0, 10)


@pytest.mark.parametrize(
    "images_nhwc",
    [
        np.zeros((1, 28, 28, 1), np.float32),
        np.zeros((28, 28, 1), np.uint8),
        np.zeros((1, 1, 28, 28), np.uint8),
        np.zeros((1, 28, 28, 3), np.uint8),
    ],
)
def test_other_arrays_are_refused(bundle: Bundle, images_nhwc: NDArray[np.uint8]) -> None:
    with pytest.raises(ValueError, match=r"images are .*; allowed is uint8 \(N, 28, 28, 1\)"):
        load_classifier(bundle).probabilities(images_nhwc)


def test_answers_that_are_not_finite_are_never_given(make_bundle: MakeBundle) -> None:
    """Finite weights can still overflow; such a row must fail before it is charged."""
    classifier = load_classifier(make_bundle(weights_scale=1e20))
    images_nhwc = np.concatenate([np.zeros((2, 28, 28, 1), np.uint8), random_images(1)])
    with pytest.raises(ClassifierFault, match="untrained: 1 rows are not finite, the first of them row 2"):
        classifier.probabilities(images_nhwc)


def test_warming_answers_for_one_image_and_a_full_batch(bundle: Bundle) -> None:
    classifier = load_classifier(bundle, rows_per_batch=4)
    classifier.warm()
    assert classifier.probabilities(random_images(5)).shape == (5, 10)


def test_row_batches_hold_at_least_one_row(bundle: Bundle) -> None:
    with pytest.raises(ValueError, match="rows_per_batch is 0; allowed is 1 or more"):
        load_classifier(bundle, rows_per_batch=0)


def test_an_absent_device_is_refused(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with pytest.raises(ValueError, match="device is 'cuda'; allowed on this machine are: cpu"):
        load_classifier(bundle, "cuda")
