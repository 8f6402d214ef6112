"""An order that cannot be carried out is refused before any training, not after hours of it."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from teacher_server.teachers.bundle import load_bundle
from teacher_server.training.order import TrainingOrder
from teacher_server.training.training import train_and_write_bundle

NETWORK = "tests.teacher_server.teachers.models:small"


def never(*_: object) -> None:
    raise AssertionError("trained before refusing")


def tree(folder: Path, *classes: str) -> str:
    """A labelled tree of pictures of 16x16, two of each class and split."""
    rng = np.random.default_rng(0)
    for split in ("train", "test"):
        for name in classes:
            (folder / split / name).mkdir(parents=True)
            for index in range(2):
                Image.fromarray(rng.integers(0, 255, (16, 16, 3), np.uint8)).save(
                    folder / split / name / f"{index}.png"
                )
    return f"folder:{folder}"


@pytest.mark.parametrize(
    ("classes", "reason"),
    [
        (("cat",), "two classes or more are allowed"),
        (("cat", "d\nog"), "only printable characters are allowed"),
        (("cat", "d" * 201), "at most 200 characters"),
    ],
)
def test_classes_that_no_teacher_may_have_are_refused_before_training(
    tmp_path: Path, classes: tuple[str, ...], reason: str
) -> None:
    dataset = tree(tmp_path / "tree", *classes)
    with pytest.raises(ValueError, match=f"its classes cannot be a teacher's: .*{reason}") as refusal:
        train_and_write_bundle(TrainingOrder(dataset, NETWORK, epochs=1), tmp_path / "bundle", progress=never)
    assert "validation error" not in str(refusal.value)
    assert "the file" not in str(refusal.value)  # as faults of a bundle's manifest have it
    assert [path.name for path in tmp_path.iterdir()] == ["tree"]


def test_a_bundle_may_be_ordered_into_folders_that_are_not_there_yet(tmp_path: Path) -> None:
    order = TrainingOrder(tree(tmp_path / "tree", *"abcd"), NETWORK, epochs=1)
    made = train_and_write_bundle(order, tmp_path / "a" / "b" / "bundle")
    assert load_bundle(tmp_path / "a" / "b" / "bundle") == made
    assert [path.name for path in (tmp_path / "a" / "b").iterdir()] == ["bundle"]


def test_a_place_that_cannot_be_written_is_refused_before_training(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    order = TrainingOrder(tree(tmp_path / "tree", *"abcd"), NETWORK, epochs=1)
    with pytest.raises(ValueError, match=r"out: nothing can be written to .*file"):
        train_and_write_bundle(order, tmp_path / "file" / "bundle", progress=never)


def test_names_of_folders_become_names_a_bundle_may_have(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert TrainingOrder("folder:/x/My Pets", "torchvision:resnet18").bundle_name == "my-pets-torchvision-resnet18"
    assert TrainingOrder("folder:/x/ünï", "lenet5").bundle_name == "n--lenet5"
    assert len(TrainingOrder(f"folder:/x/{'a' * 80}", "lenet5").bundle_name) == 64
    (tmp_path / "pets").mkdir()
    monkeypatch.chdir(tmp_path / "pets")
    assert TrainingOrder("folder:.", "lenet5").bundle_name == "pets-lenet5"
