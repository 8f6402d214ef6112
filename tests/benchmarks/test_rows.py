"""Rows are known again, whatever the program has learnt since; and no process spoils another's."""

import json
import multiprocessing
from pathlib import Path

import pytest

from benchmarks.reproduction.rows import RowsDamaged, append_row, read_rows
from tests.benchmarks.made_up import folders, found, row


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folders(tmp_path)
    return tmp_path


def test_a_row_is_of_its_experiment_and_of_no_other(root: Path) -> None:
    recorded = row(found(root), accuracy=0.87)
    assert recorded.is_of(found(root))
    for other in (
        found(root, seed=2),
        found(root, method="fs-bbt"),
        found(root, answers=2_500),
        found(root, student="lenet5"),
        found(root, pool="random"),
        found(root, disclosure="label"),
    ):
        assert not recorded.is_of(other)


def test_a_row_is_not_of_another_teachers_experiment(root: Path) -> None:
    recorded = row(found(root), accuracy=0.87)
    (root / "bundles" / "fashion-mnist-lenet5" / "teacher.toml").write_text('[weights]\nsha256 = "1e"\n')
    assert not recorded.is_of(found(root))


def test_a_row_from_before_a_key_was_learnt_is_known_again_by_its_default(root: Path) -> None:
    experiment = found(root)
    config = experiment.config.model_dump(mode="json")
    del config["training"]["tail"]
    assert row(experiment, accuracy=0.87, config=config).is_of(experiment)
    config["training"]["forgotten"] = 1
    assert not row(experiment, accuracy=0.87, config=config).is_of(experiment)


def test_what_is_appended_is_read(root: Path) -> None:
    rows = [row(found(root, seed=seed), accuracy=0.87) for seed in (1, 2)]
    for each in rows:
        append_row(each, root / "results")
    assert read_rows("fashion-mnist", root / "results") == rows
    assert read_rows("mnist", root / "results") == []


def test_a_damaged_line_is_named_and_nothing_is_appended_to_it(root: Path) -> None:
    recorded = row(found(root), accuracy=0.87)
    append_row(recorded, root / "results")
    path = root / "results" / "fashion-mnist.jsonl"
    path.write_text(path.read_text() + json.dumps({"dataset": "fashion-mnist"})[:-3])
    before = path.read_text()
    with pytest.raises(RowsDamaged, match="line 2"):
        append_row(recorded, root / "results")
    assert path.read_text() == before


def _append(root: Path, worker: int) -> None:
    for seed in range(10):
        append_row(row(found(root, seed=100 * worker + seed), accuracy=0.87), root / "results")


def test_two_processes_append_whole_lines(root: Path) -> None:
    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=_append, args=(root, worker)) for worker in (1, 2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
        assert worker.exitcode == 0
    seeds = {each.seed for each in read_rows("fashion-mnist", root / "results")}
    assert seeds == {100 * worker + seed for worker in (1, 2) for seed in range(10)}
