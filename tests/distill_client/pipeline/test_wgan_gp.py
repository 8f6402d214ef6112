"""Runs whose synthetic images are a GAN's, balanced by what a student sees in them; killed ones, too."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from distill_client.config import RunConfig
from distill_client.errors import RunStoreError
from distill_client.material import Material
from distill_client.run_folder import LABELS_FILE, open_run
from distill_client.stages import wgan_gp
from shared.wire.images import image_digests
from tests.distill_client.fakes import (
    FakeTeacher,
    Interrupted,
    SilentReporter,
    begin,
    bring_to_its_end,
    tiny_config,
)
from tests.distill_client.pipeline.support import Finished, equal_weights, weights_of

GAN = {"latent": 4, "width": 8, "epochs": 2, "batch_size": 16, "critic_steps": 2}


def gan_config(**changes: Any) -> RunConfig:
    return tiny_config(synthesis={"method": "wgan-gp", "gan": GAN | changes}, budget={"interim_length": 0.5})


@pytest.fixture(scope="module")
def balanced(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """An uninterrupted run; tests only read it."""
    path, teacher = tmp_path_factory.mktemp("gan") / "whole", FakeTeacher(budget=100)
    begin(path, gan_config(), teacher)
    return path, teacher, bring_to_its_end(path, teacher)


def test_the_teacher_is_asked_about_what_is_bought_and_about_nothing_else(balanced: Finished) -> None:
    path, teacher, summary = balanced
    assert summary["images"]["by_phase"] == {"pool": 40, "gan": 60}
    assert summary["images"]["planned"] == summary["images"]["bought"] == teacher.spent == 100
    assert summary["audit"]["equal"]
    with open_run(path) as folder:
        gan_nhwc = folder.labels.labelled("gan").images_nhwc
    assert set(teacher.images_seen) == set(
        image_digests(np.concatenate([Material(gan_config()).pool.images_nhwc, gan_nhwc]))
    )
    assert len(teacher.images_seen) == 100
    assert {"train_gan", "train_interim-0", "choose_gan", "buy_gan"} <= summary["seconds"].keys()
    assert list((path / "checkpoints").iterdir()) == []
    json.dumps(summary, allow_nan=False)


class SeesHowBright(torch.nn.Module):
    """A student that gives an image one of ten classes by its mean level."""

    def __init__(self, levels_k: torch.Tensor) -> None:
        super().__init__()
        self.levels_k = torch.nn.Parameter(levels_k)

    def forward(self, images_nchw: torch.Tensor) -> torch.Tensor:
        return -1000 * (images_nchw.mean(dim=(1, 2, 3))[:, None] - self.levels_k).abs()


def test_equal_numbers_of_each_class_that_the_student_sees_are_bought(
    tmp_path: Path, balanced: Finished, monkeypatch: pytest.MonkeyPatch
) -> None:
    with open_run(balanced[0]) as folder:
        means = torch.tensor(folder.labels.labelled("gan").images_nhwc / 255).float().mean(dim=(1, 2, 3))
    student = SeesHowBright(torch.linspace(float(means.quantile(0.1)), float(means.quantile(0.9)), 10))
    monkeypatch.setattr(wgan_gp, "interim_student", lambda walk, after_round: student)
    teacher, path = FakeTeacher(), tmp_path / "run"
    begin(path, gan_config(candidates_per_image=200), teacher)
    bring_to_its_end(path, teacher)
    with open_run(path) as folder:
        images_nchw = torch.tensor(folder.labels.labelled("gan").images_nhwc / 255).float().permute(0, 3, 1, 2)
    assert torch.bincount(student(images_nchw).argmax(dim=1), minlength=10).tolist() == [6] * 10


@pytest.mark.parametrize("what", ["GAN", "interim-0"])
def test_a_run_killed_while_it_trains_ends_as_if_it_had_not_been(
    tmp_path: Path, balanced: Finished, what: str
) -> None:
    teacher, path, reporter = FakeTeacher(budget=100), tmp_path / "run", SilentReporter()
    begin(path, gan_config(), teacher)
    with pytest.raises(Interrupted):
        bring_to_its_end(path, teacher, SilentReporter(interrupt=what))
    (path / LABELS_FILE).unlink()
    summary = bring_to_its_end(path, teacher, reporter)
    assert reporter.trainings[0] == what
    assert (teacher.spent, summary["images"]) == (100, balanced[2]["images"])
    assert summary["audit"]["equal"]
    assert equal_weights(weights_of(path), weights_of(balanced[0]))


@pytest.mark.parametrize("method", ["wgan-gp", "fs-bbt"])
def test_the_checkpoint_of_what_makes_the_images_is_looked_for_where_it_is_kept(tmp_path: Path, method: str) -> None:
    config = gan_config() if method == "wgan-gp" else tiny_config()
    begin(tmp_path / "run", config, FakeTeacher())
    name = "gan" if method == "wgan-gp" else "cvae"
    (tmp_path / "run" / "checkpoints" / f"{name}.safetensors").write_bytes(b"?")
    with pytest.raises(RunStoreError, match=rf"checkpoints/{name}\.safetensors: the checkpoint is damaged"):
        bring_to_its_end(tmp_path / "run", FakeTeacher())


def test_nothing_synthetic_trains_no_gan(tmp_path: Path) -> None:
    config = tiny_config(synthesis={"images": 0, "method": "wgan-gp"}, budget_images=40)
    reporter = SilentReporter()
    begin(tmp_path / "run", config, FakeTeacher())
    assert bring_to_its_end(tmp_path / "run", FakeTeacher(), reporter)["images"]["by_phase"] == {"pool": 40}
    assert "GAN" not in reporter.trainings
