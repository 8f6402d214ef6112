import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from distill_client.audit import Audit, Difference
from distill_client.contenders import STANDARD_KD, STUDENT, fresh_network, save_network
from distill_client.errors import RunStoreError
from distill_client.pool import PoolFit
from distill_client.results import (
    export_student,
    load_contender,
    measure_accuracies,
    measure_agreement,
    sample_images,
    summarise,
)
from distill_client.run_folder import RunFolder, open_run
from distill_client.student.evaluation import predict_probabilities
from distill_client.student.losses import Loss
from distill_client.teachers.paid.labelled import LabelledImages
from shared.datasets import Dataset
from tests.distill_client.fakes import FakeTeacher, answer_to, begin, tiny_config

CPU = torch.device("cpu")
AUDIT = Audit(5, 6, 7, 8, differences=(Difference("log", "a fault"),))


def some_images(count: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    return np.random.default_rng(count).integers(0, 256, (count, 28, 28, 1), np.uint8)


def begun(path: Path, **changes: Any) -> RunFolder:
    """A run with an untrained student and standard-kd."""
    begin(path, tiny_config(baselines={"student_alone": False}, **changes), FakeTeacher())
    folder = open_run(path)
    for contender in (STUDENT, STANDARD_KD):
        network = fresh_network(folder.config, image_hwc=(28, 28, 1), classes=10)
        save_network(network, folder.contender_path(contender))
    return folder


def test_accuracy_is_the_fraction_of_true_labels_and_agreement_that_of_the_teachers(tmp_path: Path) -> None:
    folder, images = begun(tmp_path / "run", evaluation={"held_out_fraction": 0.4}), some_images(50)
    student_n = predict_probabilities(load_contender(folder, STUDENT, CPU), images).argmax(axis=1).astype(np.int64)
    half = np.where(np.arange(50) % 2 == 0, student_n, (student_n + 1) % 10)
    test = Dataset("digits", "test", images, half, tuple("0123456789"))
    assert measure_accuracies(folder, test, CPU) == {STUDENT: 0.5, STANDARD_KD: 0.5}
    agreed = measure_agreement(folder, LabelledImages(images, student_n), test, None, CPU)
    assert (agreed["agreement"], agreed["agreement_images"]) == (1.0, 20)
    disagreed = measure_agreement(folder, LabelledImages(images, (student_n + 1) % 10), test, None, CPU)
    assert disagreed["agreement"] == 0.0


def test_a_contender_that_is_not_trained_is_named(tmp_path: Path) -> None:
    folder = begun(tmp_path / "run")
    folder.contender_path(STANDARD_KD).unlink()
    test = Dataset("digits", "test", some_images(4), np.zeros(4, np.int64), tuple("0123456789"))
    with pytest.raises(RunStoreError, match="standard_kd is not trained yet: `distill resume"):
        measure_accuracies(folder, test, CPU)


def test_the_summary_keeps_every_count_as_its_own_side_gave_it(tmp_path: Path) -> None:
    folder = begun(tmp_path / "run")
    test = Dataset("digits", "test", some_images(4), np.zeros(4, np.int64), tuple("0123456789"))
    agreed = {"agreement": None, "agreement_on": "not measured", "agreement_images": 0}
    planned = {"pool": 1, "mixup": 2, "cvae": 1}
    loss = Loss("lumped tail", "top-k:3", taught=2, answers=5)
    accuracies = {STUDENT: 0.5, STANDARD_KD: 0.25}
    fit = PoolFit(5, 3, None, None, None, 10, ("too few classes",))
    images_nhwc = some_images(5)
    with folder:
        for phase, rows in {"pool": [0], "mixup": [1, 2], "cvae": [3]}.items():
            folder.labels.record_stage(phase, images_nhwc[rows], images_per_request=2)
        summary = summarise(folder, accuracies, agreed, AUDIT, planned=planned, test=test, loss=loss, fit=fit)
        folder.labels.record_stage("second_pool", images_nhwc[[0, 4]], images_per_request=2)
        planned_two = {**planned, "second_pool": 1}  # the other image is the pool's
        two = summarise(folder, accuracies, agreed, AUDIT, planned=planned_two, test=test, loss=loss, fit=fit)
        folder.labels.record_stage("gan", images_nhwc[[3, 3]], images_per_request=2)
        planned_more = {**planned_two, "gan": 2}
        again = summarise(folder, accuracies, agreed, AUDIT, planned=planned_more, test=test, loss=loss, fit=fit)
    assert summary["images"] == {
        "planned": 4,
        "bought": 5,
        "charged_by_server": 6,
        "in_audit_log": 7,
        "by_phase": planned,
        "real": 1,
        "rejected": 3,
    }
    assert "repeated" not in two["images"]
    assert (again["images"]["planned"], again["images"]["repeated"]) == (7, 2)
    assert summary["pool_fit"]["warnings"] == ["too few classes"]
    assert summary["learnt_by"] == loss.sentence
    assert (summary["audit"]["equal"], summary["audit"]["faults"]) == (False, ["a fault"])
    assert summary["audit"]["sentence"].startswith("The two sides do not agree (5 images counted by the client, 6")
    assert summary["last_receipt"] is None
    assert summary["baselines"] == {"student_alone": None, "standard_kd": 0.25}
    assert summary["student_accuracy"] == 0.5
    json.dumps(summary, allow_nan=False)

    for _ in range(2):  # writing it again changes nothing
        export_student(folder, summary, CPU)
    card = json.loads((folder.student_path / "card.json").read_text())
    assert card["agreement_with_teacher"] is None
    assert card["input"]["height"] == 28
    assert sorted(path.name for path in folder.student_path.iterdir()) == [
        "README.md",
        "card.json",
        "student.safetensors",
    ]


def test_samples_show_the_first_images_of_every_stage_with_the_teachers_word_for_them(tmp_path: Path) -> None:
    begun(tmp_path / "run")
    with open_run(tmp_path / "run") as folder:
        for stage, count in (("pool", 12), ("mixup", 3)):
            folder.labels.record_stage(stage, some_images(count), images_per_request=20)
            (number,) = folder.labels.unanswered(stage)
            batch = folder.labels.read_batch(number)
            teacher = FakeTeacher(rejects_below=256 if stage == "mixup" else 0)
            folder.labels.keep_answer(number, teacher.label(batch.images_nhwc, batch.idempotency_key))
        samples = sample_images(folder)
    assert {stage: len(labels) for stage, (_, labels) in samples.items()} == {"pool": 8, "mixup": 3}
    images, labels = samples["pool"]
    assert np.array_equal(images, some_images(12)[:8])
    assert labels == [str(label) for label in answer_to(images).argmax(axis=1)]
    assert samples["mixup"][1] == ["rejected"] * 3
