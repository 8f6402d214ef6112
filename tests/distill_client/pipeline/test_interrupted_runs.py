"""Runs cut off while buying or training, and resumed: they end as if they had not been."""

import json
from pathlib import Path

import pytest

from distill_client.errors import BudgetExhausted, TeacherUnavailable
from distill_client.material import Material
from distill_client.pool import Pool
from distill_client.run_folder import open_run
from tests.distill_client.fakes import (
    FakeTeacher,
    Interrupted,
    SilentReporter,
    begin,
    bring_to_its_end,
    tiny_config,
)
from tests.distill_client.pipeline.support import Finished, equal_weights, weights_of


def test_resuming_a_finished_run_buys_nothing_and_says_the_same(tmp_path: Path) -> None:
    teacher, path = FakeTeacher(budget=100), tmp_path / "run"
    begin(path, tiny_config(), teacher)
    first = bring_to_its_end(path, teacher)
    weights, calls, metrics = weights_of(path), teacher.calls, (path / "metrics.jsonl").read_text()
    reporter = SilentReporter()
    again = bring_to_its_end(path, teacher, reporter)
    assert teacher.calls == calls
    assert reporter.trainings == []
    assert [(images, bought) for _, images, bought in reporter.stages] == [
        (count, count) for count in first["images"]["by_phase"].values()
    ]
    assert {key: value for key, value in again.items() if key != "seconds"} == {
        key: value for key, value in first.items() if key != "seconds"
    }
    assert equal_weights(weights_of(path), weights)
    assert (path / "metrics.jsonl").read_text() == metrics


@pytest.mark.parametrize("is_charged", [False, True])
@pytest.mark.parametrize("lost_at", [1, 3, 4, 7, 8])
def test_a_run_cut_off_while_buying_ends_as_if_it_had_not_been(
    tmp_path: Path, finished: Finished, lost_at: int, is_charged: bool
) -> None:
    lost = {lost_at}
    teacher = FakeTeacher(budget=100, fails_after=lost) if is_charged else FakeTeacher(budget=100, fails_before=lost)
    path, reporter = tmp_path / "run", SilentReporter()
    begin(path, tiny_config(), teacher)
    with pytest.raises(TeacherUnavailable):
        bring_to_its_end(path, teacher)
    summary = bring_to_its_end(path, teacher, reporter)
    assert teacher.spent == summary["images"]["bought"] == 100
    assert summary["audit"]["equal"]
    assert equal_weights(weights_of(path), weights_of(finished[0]))
    assert summary["student_accuracy"] == finished[2]["student_accuracy"]
    keys = [key for key, _ in teacher.asked]
    assert len(keys) == len(set(keys)) + 1  # the lost one, once more under its own key


@pytest.mark.parametrize("what", ["CVAE", "student", "standard_kd", "student_alone"])
def test_a_run_killed_while_training_ends_as_if_it_had_not_been(
    tmp_path: Path, finished: Finished, what: str
) -> None:
    teacher, path, reporter = FakeTeacher(budget=100), tmp_path / "run", SilentReporter()
    begin(path, tiny_config(), teacher)
    with pytest.raises(Interrupted):
        bring_to_its_end(path, teacher, SilentReporter(interrupt=what))
    summary = bring_to_its_end(path, teacher, reporter)
    assert reporter.trainings[0] == what
    assert teacher.spent == 100
    assert summary["audit"]["equal"]
    for contender in ("student", "standard_kd", "student_alone"):
        assert equal_weights(weights_of(path, contender), weights_of(finished[0], contender))
    rows = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
    assert len(rows) == len({(row["contender"], row["step"]) for row in rows})


def test_resuming_at_the_budgets_edge_counts_lost_answers_as_paid(tmp_path: Path) -> None:
    """The server charged a batch whose answer was lost: fewer images remain than are missing, and it is enough."""
    teacher, path = FakeTeacher(budget=100, fails_after={2}), tmp_path / "run"
    begin(path, tiny_config(teacher={"requests_in_flight": 1}), teacher)
    with pytest.raises(TeacherUnavailable):
        bring_to_its_end(path, teacher)
    assert teacher.usage().remaining == 100 - 32
    with open_run(path) as folder:
        assert folder.labels.images_bought() == 16
    assert bring_to_its_end(path, teacher)["images"]["charged_by_server"] == 100
    assert teacher.spent == 100


def test_someone_elses_spending_in_between_is_noticed_before_more_is_bought(tmp_path: Path) -> None:
    teacher, path = FakeTeacher(budget=100, fails_before={3}), tmp_path / "run"
    begin(path, tiny_config(teacher={"requests_in_flight": 1}), teacher)
    with pytest.raises(TeacherUnavailable):
        bring_to_its_end(path, teacher)
    teacher.charge_other_run(5)
    calls = teacher.calls
    with pytest.raises(BudgetExhausted, match="ask the owner for a grant of 5"):
        bring_to_its_end(path, teacher)
    assert teacher.calls == calls


def test_a_finished_run_with_repeated_images_needs_no_budget_to_be_resumed(tmp_path: Path) -> None:
    """Its plan counts rows; images that came twice were bought once, and what is left may be spent by others."""
    config, teacher, path = tiny_config(synthesis={"images": 0}), FakeTeacher(budget=40), tmp_path / "run"
    begin(path, config, teacher)
    material = Material(config)
    images = material.pool.images_nhwc.copy()
    images[1] = images[0]
    material.pool = Pool(images, material.pool.truth_n, material.pool.class_names)
    first = bring_to_its_end(path, teacher, material=material)
    assert first["images"]["bought"] == teacher.spent == 39
    teacher.charge_other_run(1)
    again = bring_to_its_end(path, teacher, material=material)
    assert again["images"]["charged_by_server"] == 39
    assert again["audit"]["equal"]
