"""Pools that the teacher's answers say do not fit: told before more is bought, or a reason to stop."""

import json
from io import StringIO
from pathlib import Path

import pytest
import torch
from rich.console import Console

from distill_client.errors import PoolUnfit
from distill_client.material import Material
from distill_client.pipeline import run
from distill_client.report.table import results_table
from distill_client.run_folder import open_run
from tests.distill_client.fakes import FakeTeacher, SilentReporter, begin, bring_to_its_end, tiny_config

TOLD = "the teacher is less sure of these images than it is right on its own test set"


def test_an_unfit_pool_is_told_before_more_is_bought_and_in_everything_that_comes_out(tmp_path: Path) -> None:
    teacher, reporter, path = FakeTeacher(), SilentReporter(), tmp_path / "run"
    config = tiny_config(
        synthesis={"images": 0}, training={"steps": 2}, baselines={"student_alone": False, "standard_kd": False}
    )
    begin(path, config, teacher)
    with open_run(path) as folder, pytest.raises(PoolUnfit, match=rf"{TOLD}.* nothing more is bought"):
        run(folder, Material(config), teacher, reporter, torch.device("cpu"), strict_pool=True)
    assert (teacher.spent, reporter.trainings, reporter.warnings) == (40, [], [])

    summary = bring_to_its_end(path, teacher, reporter)
    assert teacher.spent == 40
    (warning,) = reporter.warnings
    (fault,) = summary["pool_fit"]["warnings"]
    assert fault.startswith(TOLD)
    assert warning == f"the pool does not seem to fit the teacher: {fault}"
    assert summary["pool_fit"]["images"] == 40
    assert json.loads((path / "student" / "card.json").read_text())["pool_warnings"] == [fault]
    assert f"| warning | {fault} |" in (path / "student" / "README.md").read_text()
    console = Console(width=250, record=True, file=StringIO())
    console.print(results_table(summary))
    assert f"warning: {warning}" in console.export_text()


def test_nothing_is_told_of_a_pool_that_fits(tmp_path: Path) -> None:
    teacher, reporter, path = FakeTeacher(disclosure="label"), SilentReporter(), tmp_path / "run"
    config = tiny_config(
        pool={"images": 60},
        synthesis={"images": 0},
        training={"steps": 2},
        label_only={"ensemble": 0},
        baselines={"student_alone": False, "standard_kd": False},
    )
    begin(path, config, teacher)
    with open_run(path) as folder:
        summary = run(folder, Material(config), teacher, reporter, torch.device("cpu"), strict_pool=True)
    assert (reporter.warnings, summary["pool_fit"]["warnings"]) == ([], [])
    assert summary["pool_fit"]["effective_classes"] > 8
    assert "warning" not in (path / "student" / "README.md").read_text()
