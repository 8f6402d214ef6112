"""FS-BBT as its code was released: the CVAE learns from a second pool, which is bought and taught to nobody else."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from distill_client import pipeline
from distill_client.config import RunConfig
from distill_client.contenders import prepare_lessons
from distill_client.errors import RunStoreError
from distill_client.material import Material
from distill_client.run_folder import LABELS_FILE, open_run
from distill_client.student.lessons import Lessons
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


def as_released(cvae_pool: str = "second") -> RunConfig:
    cvae = {"epochs": 2, "pool": cvae_pool, "layout": "by-class"}
    # So many of the images are the CVAE's that more than a few come of it.
    synthesis = {"cvae": cvae, "mixup": {"original_within": 0.3}}
    return tiny_config(budget_images=140, synthesis=synthesis)


@pytest.fixture(scope="module")
def released(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """An uninterrupted run; tests only read it."""
    path, teacher = tmp_path_factory.mktemp("released") / "whole", FakeTeacher(budget=140)
    begin(path, as_released(), teacher)
    return path, teacher, bring_to_its_end(path, teacher)


def test_a_second_pool_is_bought_and_counted(released: Finished) -> None:
    path, teacher, summary = released
    pool = Material(as_released()).pool
    assert pool.second_nhwc is not None
    both = set(image_digests(pool.images_nhwc)) | set(image_digests(pool.second_nhwc))
    assert len(pool.second_nhwc) == len(set(image_digests(pool.second_nhwc))) == 40
    images = summary["images"]
    assert list(images["by_phase"]) == ["pool", "mixup", "second_pool", "cvae"]
    assert images["by_phase"]["second_pool"] == pool.second_images == len(both) - 40
    assert images["real"] == len(both)
    assert images["planned"] == images["bought"] == teacher.spent == 100 + pool.second_images
    assert pool.second_images < 40, "what both pools have is no part of the plan"
    assert "repeated" not in images
    assert summary["audit"]["equal"]
    card = json.loads((path / "student" / "card.json").read_text())
    told = f"digits: {len(both)}, of which {pool.second_images} are a second pool that only the CVAE learnt from"
    assert card["real_images"] == told


def test_the_cvae_learns_from_the_second_pool_and_the_student_from_everything_else(
    released: Finished, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bought: list[np.ndarray] = []

    def watched(*arguments: Any) -> dict[str, Lessons]:
        bought.append(arguments[2].images_nhwc)
        return prepare_lessons(*arguments)

    monkeypatch.setattr(pipeline, "prepare_lessons", watched)
    path, pool = tmp_path / "run", Material(as_released()).pool
    assert pool.second_nhwc is not None
    teacher = FakeTeacher()
    begin(path, as_released(), teacher)
    bring_to_its_end(path, teacher)
    only_second = set(image_digests(pool.second_nhwc)) - set(image_digests(pool.images_nhwc))
    assert only_second
    assert len(bought[0]) == 100
    assert only_second.isdisjoint(image_digests(bought[0]))
    assert equal_weights(weights_of(path), weights_of(released[0]))

    own = tmp_path / "own"
    begin(own, as_released("own"), teacher)
    bring_to_its_end(own, teacher)
    assert (own / "cvae.safetensors").read_bytes() != (path / "cvae.safetensors").read_bytes()


def kill_while_the_cvae_trains(path: Path, teacher: FakeTeacher) -> None:
    material = Material(as_released())
    begin(path, as_released(), teacher, keep=material.keep)
    with pytest.raises(Interrupted):
        bring_to_its_end(path, teacher, SilentReporter(interrupt="CVAE"), material=material)


def resume_from_what_is_kept(path: Path, teacher: FakeTeacher) -> dict[str, Any]:
    with open_run(path, mends=True) as folder:
        material = Material.of_run(folder)
    return bring_to_its_end(path, teacher, material=material)


def lose_the_store(path: Path) -> None:
    (path / LABELS_FILE).unlink()


@pytest.mark.parametrize("lose", [lambda path: None, lose_the_store], ids=["killed", "killed, and its store lost"])
def test_a_killed_run_ends_as_if_it_had_not_been(
    tmp_path: Path, released: Finished, lose: Callable[[Path], None]
) -> None:
    teacher, path = FakeTeacher(budget=140), tmp_path / "run"
    kill_while_the_cvae_trains(path, teacher)
    lose(path)
    summary = resume_from_what_is_kept(path, teacher)
    assert teacher.spent == released[1].spent
    assert summary["audit"]["equal"]
    assert summary["images"] == released[2]["images"]
    assert equal_weights(weights_of(path), weights_of(released[0]))


def test_a_damaged_second_pool_is_named(tmp_path: Path) -> None:
    teacher, path = FakeTeacher(), tmp_path / "run"
    kill_while_the_cvae_trains(path, teacher)
    kept = path / "second_pool.npy"
    kept.write_bytes(kept.read_bytes()[:-1] + b"?")
    with pytest.raises(RunStoreError, match=r"second_pool\.npy: its images are not those that the run began with"):
        resume_from_what_is_kept(path, teacher)


@pytest.mark.parametrize("pool", [{"folder": "."}, {"file": "a.npz"}])
def test_a_second_pool_is_drawn_from_a_data_set_only(pool: dict[str, str]) -> None:
    with pytest.raises(
        ValueError, match=r"synthesis\.cvae\.pool is 'second' and pool\.\w+ is .*allowed here is 'own'"
    ):
        RunConfig.model_validate({**as_released().model_dump(), "pool": {"images": 40, **pool}, "baselines": {}})
