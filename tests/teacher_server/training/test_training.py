"""Training a teacher: it learns, says how far it is, is reproducible, and refuses before it works, not after."""

from pathlib import Path

import numpy as np
import pytest
import torch

from shared.datasets import load_dataset
from teacher_server.teachers.bundle import Bundle, BundleError, load_bundle, load_network
from teacher_server.teachers.classifier import TorchClassifier
from teacher_server.training.training import (
    Recipe,
    TrainingOrder,
    measure_accuracy,
    shifted_batch,
    train_and_write_bundle,
    train_teacher,
)

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def steps() -> list[tuple[int, int, float]]:
    """What the progress callback of ``trained`` was told."""
    return []


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[int, int, float]]) -> Bundle:
    """The demo's fallback: a teacher trained on the spot by the digits recipe."""
    order = TrainingOrder("digits", "lenet5", command="teacher train --dataset digits --network lenet5 --out x")
    folder = tmp_path_factory.mktemp("bundles") / "digits-lenet5"
    return train_and_write_bundle(order, folder, progress=lambda *told: steps.append(told))


def test_a_teacher_of_digits_is_trained_on_the_spot(trained: Bundle) -> None:
    measured = trained.manifest.measured
    assert measured.test_accuracy > 0.95
    assert (measured.test_dataset, measured.test_images) == ("digits", 450)


def test_the_measured_accuracy_is_what_the_served_bundle_reaches(trained: Bundle) -> None:
    test = load_dataset("digits", "test")
    probabilities_nk = TorchClassifier(load_bundle(trained.folder)).probabilities(test.images_nhwc)
    right = (probabilities_nk.argmax(axis=1) == test.truth_n).mean()
    assert right == pytest.approx(trained.manifest.measured.test_accuracy)


def test_the_bundle_tells_what_it_is_and_how_it_was_made(trained: Bundle) -> None:
    manifest = trained.manifest
    assert (manifest.name, manifest.version, manifest.network.name) == ("digits-lenet5", "1", "lenet5")
    assert manifest.classes == tuple("0123456789")
    assert (manifest.input.height, manifest.input.width, manifest.input.channels) == (28, 28, 1)
    assert manifest.training is not None
    assert manifest.training.command == "teacher train --dataset digits --network lenet5 --out x"
    assert (manifest.training.seed, manifest.training.epochs) == (1, 40)
    assert manifest.training.threads == 1
    assert manifest.training.seconds > 0
    assert manifest.training.versions["torch"] == str(torch.__version__).partition("+")[0]


def test_progress_counts_every_step_and_the_loss_falls(trained: Bundle, steps: list[tuple[int, int, float]]) -> None:
    done, totals, losses = zip(*steps, strict=True)
    assert set(totals) == {40 * 22}
    assert list(done) == sorted(set(done))
    assert done[-1] == totals[-1]
    assert losses[-1] < losses[0] / 5


def weights(seed: int) -> dict[str, torch.Tensor]:
    train = load_dataset("digits", "train")
    recipe = Recipe(epochs=1, cosine=True, shift_pixels=1)
    return train_teacher(train, "lenet5-half", recipe, seed=seed, device=CPU).state_dict()


def test_the_seed_alone_decides_the_weights() -> None:
    first = weights(seed=3)
    torch.rand(7)  # whatever else draws from the global generator does not matter
    second, other = weights(seed=3), weights(seed=4)

    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not any(torch.equal(first[name], other[name]) for name in first)


def test_the_global_generator_is_left_as_it_was() -> None:
    before = torch.random.get_rng_state()
    weights(seed=3)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_a_name_version_seed_and_length_can_be_chosen(tmp_path: Path) -> None:
    order = TrainingOrder("digits", "lenet5-half", name="mine", version="2.1", seed=5, epochs=1)
    bundle = train_and_write_bundle(order, tmp_path / "mine")

    assert (bundle.manifest.name, bundle.manifest.version) == ("mine", "2.1")
    assert bundle.manifest.training is not None
    assert (bundle.manifest.training.seed, bundle.manifest.training.epochs) == (5, 1)
    assert not load_network(bundle).training


@pytest.mark.parametrize(
    ("order", "reason"),
    [
        (TrainingOrder("imagenet", "lenet5"), "'imagenet'; teachers can be trained on fashion-mnist, mnist, digits"),
        (TrainingOrder("digits", "lenet6"), "'lenet6'; allowed are lenet5, lenet5-half"),
        (TrainingOrder("digits", "lenet5", epochs=0), "epochs is 0; allowed is 1 or more"),
        (TrainingOrder("digits", "lenet5", device="tpu"), "device is 'tpu'; allowed on this machine are"),
        (TrainingOrder("digits", "lenet5", name="Not A Name"), "name is 'Not A Name': String should match pattern"),
        (TrainingOrder("digits", "lenet5", version=""), "version is '': String should match"),
        (TrainingOrder("digits", "lenet5", command="x\n"), r"command is 'x\\n': .*printable"),
    ],
)
def test_what_cannot_be_carried_out_is_refused_before_training(
    tmp_path: Path, order: TrainingOrder, reason: str
) -> None:
    def never(*_: object) -> None:
        raise AssertionError("trained before refusing")

    with pytest.raises(ValueError, match=reason):
        train_and_write_bundle(order, tmp_path / "bundle", progress=never)
    assert list(tmp_path.iterdir()) == []


def test_an_existing_folder_is_refused_before_training(trained: Bundle) -> None:
    def never(*_: object) -> None:
        raise AssertionError("trained before refusing")

    with pytest.raises(BundleError, match="already exists"):
        train_and_write_bundle(TrainingOrder("digits", "lenet5"), trained.folder, progress=never)


def test_an_interrupted_training_leaves_nothing(tmp_path: Path) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_and_write_bundle(TrainingOrder("digits", "lenet5", epochs=9), tmp_path / "bundle", progress=interrupt)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("margin", [0, 2])
def test_shifted_images_are_the_originals_moved_by_at_most_the_margin(margin: int) -> None:
    images = np.random.default_rng(0).integers(1, 256, (4, 6, 5, 3), np.uint8)
    bordered = np.pad(images, ((0, 0), (margin, margin), (margin, margin), (0, 0)))
    rows = torch.tensor([2, 0, 2, 3] * 25)

    batch = shifted_batch(torch.tensor(bordered), rows, margin, torch.Generator().manual_seed(0)).numpy()

    seen = set()
    for image, row in zip(batch, rows.tolist(), strict=True):
        offsets = [
            (dy, dx)
            for dy in range(2 * margin + 1)
            for dx in range(2 * margin + 1)
            if np.array_equal(image, bordered[row, dy : dy + 6, dx : dx + 5])
        ]
        assert len(offsets) == 1
        seen.add(offsets[0])
    assert len(seen) == (2 * margin + 1) ** 2  # 100 draws reach all 25 offsets with this seed


def test_accuracy_is_the_fraction_of_right_answers(trained: Bundle) -> None:
    test = load_dataset("digits", "test")
    network = load_network(trained)
    for parameter in network.parameters():
        parameter.data.zero_()
    bias = dict(network.named_parameters())["logits.bias"]
    bias.data[3] = 1.0  # now every answer is 3
    assert measure_accuracy(network, test, CPU) == (test.truth_n == 3).mean()
