"""The owner's answers on a test split, written offline."""

from pathlib import Path

import numpy as np
import pytest

from shared.datasets import load_dataset
from shared.wire.images import batch_digest, image_digests
from shared.wire.teacher_answers import read_teacher_answers, write_teacher_answers
from teacher_server.teachers.bundle import Bundle, load_bundle
from teacher_server.training.order import TrainingOrder
from teacher_server.training.prediction import predict_split
from teacher_server.training.training import train_and_write_bundle
from tests.shared.published import load_or_skip

BUNDLES = Path(__file__).parents[3] / "bundles"


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return train_and_write_bundle(TrainingOrder("digits", "lenet5-half", epochs=1), tmp_path / "bundle")


def test_the_answers_are_those_of_the_bundle_on_the_splits_images(bundle: Bundle, tmp_path: Path) -> None:
    test = load_dataset("digits", "test")

    write_teacher_answers(tmp_path / "answers.npz", predict_split(bundle, "digits", "test"))
    answers = read_teacher_answers(tmp_path / "answers.npz")

    assert (answers.teacher, answers.version) == ("digits-lenet5-half", "1")
    assert (answers.dataset, answers.split) == ("digits", "test")
    assert answers.images_digest == batch_digest(image_digests(test.images_nhwc))
    assert answers.probabilities_nk.shape == (450, 10)
    accuracy = (answers.probabilities_nk.argmax(axis=1) == test.truth_n).mean()
    assert bundle.manifest.measured is not None
    assert accuracy == pytest.approx(bundle.manifest.measured.test_accuracy, abs=0.005)  # rounding may make a tie


def test_the_other_split_has_another_digest(bundle: Bundle) -> None:
    answers = [predict_split(bundle, "digits", split) for split in ("train", "test")]
    assert answers[0].images_digest != answers[1].images_digest
    assert len(answers[0].probabilities_nk) == 1347


@pytest.mark.parametrize(
    ("dataset", "network", "at_least"),
    [("fashion-mnist", "lenet5", 0.9), ("mnist", "lenet5", 0.99), ("cifar10", "alexnet", 0.8)],
)
def test_the_committed_teachers_are_as_good_as_their_cards_say(dataset: str, network: str, at_least: float) -> None:
    """Other processors round otherwise; five of 10,000 images may fall to the other side."""
    test = load_or_skip(dataset, "test")
    bundle = load_bundle(BUNDLES / f"{dataset}-{network}")

    answers = predict_split(bundle, dataset, "test")

    accuracy = float((answers.probabilities_nk.argmax(axis=1) == test.truth_n).mean())
    assert bundle.manifest.measured is not None
    assert accuracy == pytest.approx(bundle.manifest.measured.test_accuracy, abs=0.0005)
    assert accuracy >= at_least
    np.testing.assert_allclose(answers.probabilities_nk.sum(axis=1), 1, atol=1e-5)


def test_images_that_are_not_the_teachers_input_are_refused(bundle: Bundle) -> None:
    manifest = bundle.manifest
    colour = manifest.input.model_copy(update={"channels": 3, "mean": (0.0,) * 3, "std": (1.0,) * 3})
    other = Bundle(manifest.model_copy(update={"input": colour}), bundle.folder)
    with pytest.raises(ValueError, match=r"data set digits has images of 28 x 28 x 1; .* takes 28 x 28 x 3"):
        predict_split(other, "digits", "test")


def test_unknown_data_sets_and_devices_are_refused(bundle: Bundle) -> None:
    with pytest.raises(ValueError, match="'imagenet'; allowed are"):
        predict_split(bundle, "imagenet", "test")
    with pytest.raises(ValueError, match="device is 'tpu'; allowed on this machine are"):
        predict_split(bundle, "digits", "test", device="tpu")
