"""Runs on less than probabilities: labels, top-k, rejected answers."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from distill_client import contenders
from distill_client.errors import ConfigError
from distill_client.stages import fs_bbt
from distill_client.synthesis import cvae
from tests.distill_client.fakes import (
    FakeTeacher,
    Interrupted,
    SilentReporter,
    begin,
    bring_to_its_end,
    tiny_config,
)
from tests.distill_client.pipeline.support import equal_weights, weights_of


@pytest.mark.parametrize(
    ("disclosure", "tail", "learnt_by"),
    [
        ("probabilities", "lump", "the divergence from whole distributions"),
        ("label", "lump", "cross-entropy with labels"),
        ("top-k:1", "lump", "the divergence on the named classes, the others as one"),
        ("top-k:3", "lump", "the divergence on the named classes, the others as one"),
        ("top-k:3", "spread", "the divergence, with the mass of classes that are not named spread evenly over them"),
        ("top-k:10", "lump", "the divergence from whole distributions"),
    ],
)
def test_runs_on_less_than_probabilities_and_says_how_it_learns(
    tmp_path: Path, disclosure: str, tail: str, learnt_by: str
) -> None:
    teacher, reporter, path = FakeTeacher(disclosure=disclosure), SilentReporter(), tmp_path / "run"
    begin(path, tiny_config(training={"tail": tail}), teacher)
    summary = bring_to_its_end(path, teacher, reporter)
    assert summary["images"]["charged_by_server"] == 100
    assert summary["images"]["rejected"] == 0
    assert summary["audit"]["equal"]
    assert 0 <= summary["agreement"] <= 1
    learnt_by += f" (disclosure {disclosure})"
    if disclosure == "label":
        learnt_by += "; the student also from an ensemble of 3 students of the labels"
    assert reporter.learnt_by == [summary["learnt_by"]] == [learnt_by]
    assert json.loads((path / "student" / "card.json").read_text())["learnt_by"] == learnt_by
    assert f"| learnt by | {learnt_by} |" in (path / "student" / "README.md").read_text()
    bring_to_its_end(path, teacher, reporter)
    assert len(reporter.learnt_by) == 1  # nothing was trained


@pytest.mark.parametrize(("together", "finished"), [(True, []), (False, [".member-0", ".member-1"])])
def test_a_run_on_labels_that_is_killed_while_an_ensemble_trains_ends_as_if_it_had_not_been(
    tmp_path: Path, together: bool, finished: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Within the three members' training, or the third's; once the student is kept, the disk holds none of them."""
    monkeypatch.setattr(contenders, "gains_by_stacking", lambda *_: together)
    summaries = []
    for name in ("whole", "killed"):
        teacher, path = FakeTeacher(disclosure="label"), tmp_path / name
        begin(path, tiny_config(), teacher)
        if name == "killed":
            with pytest.raises(Interrupted):
                bring_to_its_end(path, teacher, SilentReporter(interrupt="student"))
            members = sorted(file.name for file in (path / "checkpoints").iterdir())
            assert members == [f"student{part}.safetensors" for part in finished]
        summaries.append(bring_to_its_end(path, teacher))
        assert list((path / "checkpoints").iterdir()) == []
        assert teacher.spent == 100
    assert equal_weights(weights_of(tmp_path / "whole"), weights_of(tmp_path / "killed"))
    assert summaries[0]["student_accuracy"] == summaries[1]["student_accuracy"]


@pytest.mark.parametrize("disclosure", ["probabilities", "top-k:2"])
def test_rejected_answers_are_paid_for_counted_and_taught_to_nobody(
    tmp_path: Path, disclosure: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """About a third of them, in every stage, some of them held out; the CVAE too learns from the others alone."""
    conditions: list[NDArray[np.int64]] = []
    train_cvae = cvae.train_cvae

    def spy(network: Any, config: Any, pool_nhwc: Any, classes_n: NDArray[np.int64], *rest: Any) -> None:
        conditions.append(classes_n)
        assert len(pool_nhwc) == len(classes_n)
        train_cvae(network, config, pool_nhwc, classes_n, *rest)

    monkeypatch.setattr(fs_bbt, "train_cvae", spy)
    teacher, path = FakeTeacher(disclosure=disclosure, rejects_below=80), tmp_path / "run"
    begin(path, tiny_config(), teacher)
    summary = bring_to_its_end(path, teacher)
    rejected = sum(digest[0] < 80 for digest in teacher.images_seen)
    in_pool = sum(digest[0] < 80 for digest in teacher.images_seen[:40])
    assert 0 < in_pool < rejected < 60
    assert summary["images"]["rejected"] == rejected
    assert summary["images"]["bought"] == summary["images"]["charged_by_server"] == 100
    assert f"; {rejected} of 100 answers were rejected and teach nothing" in summary["learnt_by"]
    assert [len(classes_n) for classes_n in conditions] == [40 - in_pool]
    assert min(conditions[0]) >= 0
    assert 0 < summary["agreement_images"] < 10
    assert torch.isfinite(weights_of(path)["dense1.weight"]).all()


def test_a_pool_that_is_rejected_whole_ends_the_run_before_more_is_bought(tmp_path: Path) -> None:
    teacher = FakeTeacher(rejects_below=256)
    begin(tmp_path / "run", tiny_config(), teacher)
    with pytest.raises(ConfigError, match="all 40 answers to the pool were rejected, so nothing more is bought"):
        bring_to_its_end(tmp_path / "run", teacher)
    assert teacher.spent == 40
