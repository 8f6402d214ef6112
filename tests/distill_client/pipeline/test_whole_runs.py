"""Whole runs against a teacher in this process: what they leave, what they say, that equal seeds agree."""

import json
from pathlib import Path

import numpy as np
import safetensors.torch
import torch

from distill_client.randomness import torch_generator
from distill_client.results import HELD_OUT
from distill_client.run_folder import open_run
from distill_client.student.networks import create_student
from shared.datasets import load_dataset
from shared.wire.images import image_digests
from tests.distill_client.fakes import (
    FakeTeacher,
    Signer,
    SilentReporter,
    answer_to,
    begin,
    bring_to_its_end,
    tiny_config,
)
from tests.distill_client.pipeline.support import Finished, equal_weights, weights_of


def test_a_run_ends_with_three_equal_counts(finished: Finished) -> None:
    _, teacher, summary = finished
    images = summary["images"]
    assert images["planned"] == images["bought"] == images["charged_by_server"] == images["in_audit_log"] == 100
    assert sum(images["by_phase"].values()) == 100
    assert images["by_phase"]["pool"] == 40
    assert images["by_phase"]["mixup"] > 0
    assert images["by_phase"]["cvae"] > 0
    assert (summary["audit"]["equal"], summary["audit"]["faults"]) == (True, [])
    assert teacher.spent == 130
    assert len(set(teacher.images_seen)) == len(teacher.images_seen) == 100


def test_the_summary_says_all_that_it_must(finished: Finished) -> None:
    path, _, summary = finished
    assert json.loads((path / "summary.json").read_text()) == summary
    assert summary["teacher_accuracy"] == 0.75
    fractions = [summary["student_accuracy"], summary["agreement"], *summary["baselines"].values()]
    assert all(isinstance(value, float) and 0 <= value <= 1 for value in fractions)
    assert set(summary["baselines"]) == {"student_alone", "standard_kd"}
    assert set(summary["images"]) >= {"planned", "bought", "charged_by_server", "in_audit_log"}
    assert summary["agreement_on"] == HELD_OUT
    assert summary["agreement_images"] == 10
    phases = {"buy_pool", "buy_mixup", "buy_cvae", "train_cvae", "train_student", "train_standard_kd"}
    assert set(summary["seconds"]) == phases | {"train_student_alone", "evaluate"}
    assert all(seconds >= 0 for seconds in summary["seconds"].values())
    assert summary["config_digest"] == tiny_config().digest()
    assert summary["seed"] == 1
    assert {"python", "torch", "numpy"} <= set(summary["versions"])
    assert (summary["test_dataset"], summary["test_images"]) == ("digits", 450)


def test_the_students_card_says_what_it_cost_and_how_that_is_proved(tmp_path: Path) -> None:
    teacher, path = FakeTeacher(signer=Signer()), tmp_path / "run"
    begin(path, tiny_config(), teacher)
    summary = bring_to_its_end(path, teacher)
    card = json.loads((path / "student" / "card.json").read_text())
    assert card["audit"] == summary["audit"]["sentence"]
    assert card["last_receipt"] == summary["last_receipt"]
    text = (path / "student" / "README.md").read_text()
    for words in (
        "| teacher | fake, version 1; it disclosed probabilities |",
        "| real images | digits |",
        "| budget | 100 images |",
        "| answers bought | 100 (40 pool, ",
        f"| accuracy | {summary['student_accuracy']:.2%} on the test set of digits; the teacher's, as its owner",
        f"| agreement with the teacher | {summary['agreement']:.2%} (10 images: bought answers held out of trai",
        summary["audit"]["sentence"],
        json.dumps(summary["last_receipt"], indent=1),
    ):
        assert words in text, words
    begin(tmp_path / "unsigned", tiny_config(), FakeTeacher())
    bring_to_its_end(tmp_path / "unsigned", FakeTeacher())
    text = (tmp_path / "unsigned" / "student" / "README.md").read_text()
    assert "counts not proved by receipts" in text
    assert "last receipt" not in text


def test_no_test_image_was_ever_sent(finished: Finished) -> None:
    _, teacher, _ = finished
    assert frozenset(image_digests(load_dataset("digits", "test").images_nhwc)).isdisjoint(teacher.images_seen)


def test_the_student_trained_on_the_very_bytes_that_were_answered(
    finished: Finished,
) -> None:
    path, teacher, _ = finished
    with open_run(path) as folder:
        for stage in ("pool", "mixup", "cvae"):
            labelled = folder.labels.labelled(stage)
            assert np.array_equal(labelled.values, answer_to(labelled.images_nhwc))
            assert set(image_digests(labelled.images_nhwc)) <= set(teacher.images_seen)


def test_the_student_to_hand_on_can_be_used_without_this_program(
    finished: Finished,
) -> None:
    path, _, summary = finished
    card = json.loads((path / "student" / "card.json").read_text())
    weights = safetensors.torch.load_file(path / "student" / card["weights"])
    assert equal_weights(weights, weights_of(path))
    size = card["input"]
    network = create_student(
        card["network"],
        image_hwc=(size["height"], size["width"], size["channels"]),
        classes=len(card["classes"]),
        generator=torch_generator(9, "x"),
    )
    network.load_state_dict(weights)
    test = load_dataset("digits", "test")
    logits = network.eval()(torch.tensor(test.images_nhwc).permute(0, 3, 1, 2).float() / 255)
    right = float((logits.argmax(1).numpy() == test.truth_n).mean())
    assert abs(right - card["test_accuracy"]) < 0.005
    assert card["answers_bought"] == 100
    assert card["distilled_from"] == {"name": "fake", "version": "1"}
    assert card["run_id"] == summary["run_id"]


def test_a_run_leaves_nothing_unfinished_behind(finished: Finished) -> None:
    path, _, _ = finished
    assert list((path / "checkpoints").iterdir()) == []
    assert list(path.rglob("*.tmp")) == []
    assert {p.stem for p in (path / "contenders").iterdir()} == {"student", "standard_kd", "student_alone"}
    contenders = {json.loads(line)["contender"] for line in (path / "metrics.jsonl").read_text().splitlines()}
    assert contenders == {"student", "standard_kd", "student_alone"}
    assert list(path.parent.iterdir()) == [path]


def test_a_run_without_synthetic_images_baselines_and_held_out_answers(tmp_path: Path) -> None:
    config = tiny_config(
        synthesis={"images": 0},
        baselines={"student_alone": False, "standard_kd": False},
        evaluation={"held_out_fraction": 0},
    )
    teacher, reporter = FakeTeacher(budget=40), SilentReporter()
    begin(tmp_path / "run", config, teacher)
    summary = bring_to_its_end(tmp_path / "run", teacher, reporter)
    assert summary["images"]["by_phase"] == {"pool": 40}
    assert summary["images"]["planned"] == summary["images"]["in_audit_log"] == 40
    assert summary["baselines"] == {"student_alone": None, "standard_kd": None}
    assert (summary["agreement"], summary["agreement_on"], summary["agreement_images"]) == (None, "not measured", 0)
    assert reporter.trainings == ["student"]
    assert reporter.charged == [16, 16, 8]


def test_the_teachers_own_limit_cuts_batches_smaller(tmp_path: Path) -> None:
    teacher = FakeTeacher(images_per_request_max=10)
    begin(tmp_path / "run", tiny_config(synthesis={"images": 0}), teacher)
    bring_to_its_end(tmp_path / "run", teacher)
    assert [event.images for event in teacher.log if event.kind == "answer"] == [10, 10, 10, 10]


def test_equal_seeds_train_equal_students_and_other_seeds_others(tmp_path: Path, finished: Finished) -> None:
    for seed in (1, 2):
        begin(tmp_path / str(seed), tiny_config(seed=seed), FakeTeacher())
        bring_to_its_end(tmp_path / str(seed), FakeTeacher())
        assert equal_weights(weights_of(tmp_path / str(seed)), weights_of(finished[0])) is (seed == 1)


def test_a_run_of_mixed_views_buys_nothing_else_beside_its_pool(tmp_path: Path) -> None:
    config = tiny_config(synthesis={"method": "mixed-views", "images": 60})
    teacher, reporter = FakeTeacher(budget=100), SilentReporter()
    begin(tmp_path / "run", config, teacher)
    summary = bring_to_its_end(tmp_path / "run", teacher, reporter)
    assert summary["images"]["by_phase"] == {"pool": 40, "views": 60}
    assert summary["images"]["planned"] == summary["images"]["in_audit_log"] == len(set(teacher.images_seen)) == 100
    assert reporter.trainings == ["student", "standard_kd", "student_alone"]
    assert summary["student_accuracy"] is not None
