from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from distill_client.contenders import STUDENT, fresh_network, save_network
from distill_client.errors import RunStoreError
from distill_client.prediction import predict_files
from distill_client.results import load_contender
from distill_client.run_folder import RunFolder, open_run
from distill_client.student.evaluation import predict_probabilities
from shared.datasets import Skipped
from tests.distill_client.fakes import FakeTeacher, begin, tiny_config

CPU = torch.device("cpu")
NAMES = ("zero", "one $x_2$", "zwei/drei", *"3456789")


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    """A run whose student is untrained, which is enough to predict with."""
    begin(tmp_path / "run", tiny_config(), FakeTeacher(class_names=NAMES))
    opened = open_run(tmp_path / "run")
    save_network(fresh_network(opened.config, image_hwc=(28, 28, 1), classes=10), opened.contender_path(STUDENT))
    return opened


def test_files_are_read_by_the_declared_rule_and_named_by_the_teachers_classes(
    tmp_path: Path, folder: RunFolder
) -> None:
    images = np.random.default_rng(0).integers(0, 256, (3, 28, 28, 1), np.uint8)
    files = [tmp_path / f"{number} (copy).png" for number in range(3)]
    for file, image in zip(files, images, strict=True):
        Image.fromarray(image[..., 0]).save(file)
    expected = predict_probabilities(load_contender(folder, STUDENT, CPU), images)
    predictions, skipped = predict_files(folder, files, CPU)
    assert skipped == []
    assert [prediction["file"] for prediction in predictions] == [str(file) for file in files]
    assert [prediction["class"] for prediction in predictions] == [NAMES[row.argmax()] for row in expected]
    assert np.allclose([prediction["probability"] for prediction in predictions], expected.max(axis=1), atol=1e-5)


@pytest.mark.parametrize("kind", ["JPEG", "WEBP", "PNG"])
def test_any_size_and_colour_will_do(tmp_path: Path, folder: RunFolder, kind: str) -> None:
    file = tmp_path / "picture"
    Image.new("RGB", (100, 50), (200, 10, 10)).save(file, kind)
    (prediction,), _ = predict_files(folder, [file], CPU)
    assert prediction["class"] in NAMES
    assert 0.1 <= prediction["probability"] <= 1


def test_files_that_cannot_be_read_are_named_and_the_others_classified(tmp_path: Path, folder: RunFolder) -> None:
    good, text = tmp_path / "good.png", tmp_path / "text.png"
    Image.new("L", (28, 28)).save(good)
    text.write_text("no picture")
    missing = tmp_path / "missing.png"
    for bad, says in (
        (text, "the file cannot be decoded as one of PNG, JPEG, WEBP: it is none of them"),
        (missing, "cannot be read (No such file or directory)"),
        (tmp_path, "a folder; give the picture files in it"),
    ):
        predictions, skipped = predict_files(folder, [bad, good], CPU)
        assert [prediction["file"] for prediction in predictions] == [str(good)]
        assert skipped == [Skipped(str(bad), says)]
    assert predict_files(folder, [missing], CPU)[0] == []


def test_there_is_no_prediction_before_there_is_a_student(tmp_path: Path) -> None:
    begin(tmp_path / "run", tiny_config(), FakeTeacher())
    file = tmp_path / "a.png"
    Image.new("L", (28, 28)).save(file)
    with pytest.raises(RunStoreError, match="student is not trained yet"):
        predict_files(open_run(tmp_path / "run"), [file], CPU)
