"""Training a teacher: it learns, says how far it is, is reproducible, and refuses before it works, not after."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from shared.datasets import Dataset, load_dataset
from teacher_server.teachers.bundle import Bundle, BundleError, load_bundle, load_network
from teacher_server.teachers.classifier import load_classifier
from teacher_server.training.checkpoint import Checkpoint
from teacher_server.training.fitting import measure_accuracy, train_teacher
from teacher_server.training.order import TrainingOrder
from teacher_server.training.prediction import predict_split
from teacher_server.training.recipes import Recipe
from teacher_server.training.training import train_and_write_bundle

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
    assert measured is not None
    assert measured.test_accuracy > 0.95
    assert (measured.test_dataset, measured.test_images) == ("digits", 450)


def test_the_measured_accuracy_is_what_the_served_bundle_reaches(trained: Bundle) -> None:
    test = load_dataset("digits", "test")
    probabilities_nk = load_classifier(load_bundle(trained.folder)).probabilities(test.images_nhwc)
    right = (probabilities_nk.argmax(axis=1) == test.truth_n).mean()
    assert trained.manifest.measured is not None
    assert right == pytest.approx(trained.manifest.measured.test_accuracy)


def test_the_bundle_tells_what_it_is_and_how_it_was_made(trained: Bundle) -> None:
    manifest = trained.manifest
    assert manifest.network is not None
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
    recipe = Recipe(epochs=1, schedule="cosine", shift_fraction=1 / 28)
    network, _ = train_teacher(train, "lenet5-half", recipe, torch.Generator().manual_seed(seed))
    return network.state_dict()


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
    order = TrainingOrder("digits", "lenet5-half", name="mine", version="2.1", seed=5, epochs=1, schedule="constant")
    bundle = train_and_write_bundle(order, tmp_path / "mine")

    assert (bundle.manifest.name, bundle.manifest.version) == ("mine", "2.1")
    assert bundle.manifest.training is not None
    assert (bundle.manifest.training.seed, bundle.manifest.training.epochs) == (5, 1)
    assert bundle.manifest.training.schedule == "constant"
    assert not load_network(bundle).training


@pytest.mark.parametrize(
    ("order", "reason"),
    [
        (TrainingOrder("imagenet", "lenet5"), "'imagenet'; teachers can be trained on fashion-mnist, mnist, cifar10"),
        (TrainingOrder("digits", "lenet6"), "'lenet6'; allowed are lenet5, lenet5-half"),
        (TrainingOrder("digits", "lenet5", epochs=0), "epochs is 0; allowed is 1 or more"),
        (TrainingOrder("digits", "lenet5", threads=0), "threads is 0; allowed is 1 or more"),
        (TrainingOrder("digits", "lenet5", schedule="x"), "schedule is 'x'; allowed are constant, c"),  # type: ignore[arg-type]
        (TrainingOrder("digits", "lenet5", precision="half"), "'half'; allowed are float32, b"),  # type: ignore[arg-type]
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


# Dropout (torch's own generator), batch statistics and a penalty: everything that a checkpoint has to hold.
RESUMED = Recipe(epochs=4, batch_size=32, schedule="steps", shift_fraction=0.1, fill="edge", flip=True, l2=1e-4)


class Killed(Exception):
    """Stands in for a SIGKILL; the end-to-end test sends a real one."""


def test_a_killed_training_ends_with_the_weights_of_one_that_never_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(0)
    truth_n = np.arange(65) % 10
    images = rng.integers(0, 256, (65, 32, 32, 3), np.uint8)
    train = Dataset("noise", "train", images, truth_n, tuple("abcdefghij"))
    checkpoint = Checkpoint(tmp_path / "unfinished", "a training")
    monkeypatch.setattr("teacher_server.training.fitting.SECONDS_PER_CHECKPOINT", 0.0)
    monkeypatch.setattr("teacher_server.training.fitting.STEPS_PER_PROGRESS", 1)

    def train_once(kill_at: int | None, checkpoint: Checkpoint | None) -> dict[str, torch.Tensor]:
        def progress(step: int, *_: object) -> None:
            if step == kill_at:
                raise Killed

        generator = torch.Generator().manual_seed(7)
        network, _ = train_teacher(
            train, "alexnet-half", RESUMED, generator, progress=progress, checkpoint=checkpoint
        )
        return network.state_dict()

    whole = train_once(None, None)
    for kill_at in (4, 7):  # in the middle of the second epoch, at the start of the fourth
        with pytest.raises(Killed):
            train_once(kill_at, checkpoint)
    resumed = train_once(None, checkpoint)

    assert all(torch.equal(tensor, resumed[name]) for name, tensor in whole.items())
    with pytest.raises(ValueError, match=r"cannot go on from this checkpoint .it is another training's"):
        train_once(None, Checkpoint(checkpoint.path, "another"))
    checkpoint.path.write_bytes(checkpoint.path.read_bytes()[:-9])
    with pytest.raises(ValueError, match=r"cannot go on from this checkpoint .*remove it to start afresh"):
        train_once(None, checkpoint)


def test_the_penalty_is_on_convolutions_alone_and_shrinks_them() -> None:
    train = load_dataset("digits", "train")

    def norms(l2: float) -> dict[str, float]:
        recipe = Recipe(epochs=10, l2=l2)
        network, _ = train_teacher(train, "lenet5-half", recipe, torch.Generator().manual_seed(1))
        return {name: float(tensor.norm()) for name, tensor in network.state_dict().items()}

    free, penalised = norms(0.0), norms(1.0)
    assert penalised["conv1.weight"] < free["conv1.weight"] / 2
    assert penalised["conv2.weight"] < free["conv2.weight"] / 2
    assert penalised["dense1.weight"] > free["dense1.weight"] / 2


@pytest.mark.parametrize("capable", [True, False])
def test_bfloat16_learns_too_and_its_bundle_says_so_and_who_waits_for_it_is_told(
    capable: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"amx_bf16": capable})
    told: list[str] = []
    order = TrainingOrder("digits", "lenet5", epochs=5, precision="bfloat16")
    bundle = train_and_write_bundle(order, tmp_path / "b", warn=told.append)
    slow = (
        "precision bfloat16 takes longer here than float32, the default: this cpu has no units that multiply bfloat16"
    )
    assert told == ([] if capable else [slow])
    assert bundle.manifest.measured is not None
    assert bundle.manifest.measured.test_accuracy > 0.85
    assert bundle.manifest.training is not None
    assert bundle.manifest.training.precision == "bfloat16"


def test_a_tree_of_pictures_trains_a_teacher_that_declares_how_files_are_resized(tmp_path: Path) -> None:
    """Two classes that a few steps tell apart, in pictures of several sizes; one file is no picture."""
    rng = np.random.default_rng(0)
    for split, count in (("train", 24), ("val", 8)):
        for name, brightness in (("bright", 200), ("dark", 20)):
            folder = tmp_path / "tree" / split / name
            folder.mkdir(parents=True)
            for index in range(count):
                noise = rng.integers(0, 40, (30 + index, 40, 3), np.uint8) + np.uint8(brightness)
                Image.fromarray(noise).save(folder / f"{index}.png")
    (tmp_path / "tree" / "train" / "dark" / "broken.jpg").write_bytes(b"no picture")
    order = TrainingOrder(f"folder:{tmp_path / 'tree'}", "torchvision:mobilenet_v3_small", size=(32, 32, 3), epochs=4)
    told: list[tuple[str, int, str]] = []

    bundle = train_and_write_bundle(
        order, tmp_path / "bundle", skipped=lambda split, files: told.append((split, len(files), files[0].file))
    )

    manifest = bundle.manifest
    assert manifest.name == "tree-torchvision-mobilenet_v3_small"
    assert manifest.classes == ("bright", "dark")
    assert (manifest.input.height, manifest.input.width, manifest.input.resize) == (32, 32, "crop")
    assert manifest.measured is not None
    assert manifest.measured.test_images == 16
    assert told == [("train", 1, "dark/broken.jpg")]
    answers = predict_split(bundle, order.dataset, "test")
    right = (answers.probabilities_nk.argmax(axis=1) == np.repeat([0, 1], 8)).mean()
    assert right == pytest.approx(manifest.measured.test_accuracy)


def test_names_of_folders_and_foreign_networks_become_names_a_bundle_may_have() -> None:
    assert TrainingOrder("folder:/x/My Pets", "torchvision:resnet18").bundle_name == "my-pets-torchvision-resnet18"


def test_accuracy_is_the_fraction_of_right_answers(trained: Bundle) -> None:
    test = load_dataset("digits", "test")
    network = load_network(trained)
    for parameter in network.parameters():
        parameter.data.zero_()
    bias = dict(network.named_parameters())["logits.bias"]
    bias.data[3] = 1.0  # now every answer is 3
    assert measure_accuracy(network, test, CPU) == (test.truth_n == 3).mean()
