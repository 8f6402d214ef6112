"""What is done with a finished run: evaluated on the owner's answers, audited."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from distill_client import pipeline
from distill_client.audit import Audit, audit_folder
from distill_client.errors import ConfigError, RunStoreError
from distill_client.results import OWNER_FILE
from distill_client.run_folder import open_run
from shared.datasets import load_dataset
from shared.wire.contracts import Event
from shared.wire.images import batch_digest, image_digests
from shared.wire.teacher_answers import TeacherAnswers, write_teacher_answers
from tests.distill_client.fakes import (
    FakeTeacher,
    answer_to,
    begin,
    bring_to_its_end,
    tiny_config,
)
from tests.distill_client.pipeline.support import Finished


def write_owner_file(path: Path, **changes: str) -> Path:
    """What the owner of the fake teacher would hand over, or that with another field."""
    test = load_dataset("digits", "test")
    content = {
        "teacher": "fake",
        "version": "1",
        "dataset": "digits",
        "split": "test",
        "images_digest": batch_digest(image_digests(test.images_nhwc)),
    }
    probabilities_nk = answer_to(test.images_nhwc).astype(np.float32)
    write_teacher_answers(path, TeacherAnswers(**(content | changes), probabilities_nk=probabilities_nk))
    return path


def test_agreement_from_the_owners_file_and_back(tmp_path: Path) -> None:
    teacher, path, cpu = FakeTeacher(), tmp_path / "run", torch.device("cpu")
    begin(path, tiny_config(), teacher)
    first = bring_to_its_end(path, teacher)
    calls, owner_file = teacher.calls, write_owner_file(tmp_path / "answers.npz")
    with open_run(path) as folder:
        summary = pipeline.evaluate(folder, owner_file, cpu)
        assert folder.read_summary() == summary
    assert (summary["agreement_on"], summary["agreement_images"]) == (OWNER_FILE, 450)
    assert 0 <= summary["agreement"] <= 1
    assert summary["student_accuracy"] == first["student_accuracy"]
    assert json.loads((path / "student" / "card.json").read_text())["agreement_with_teacher"] == summary["agreement"]
    resumed = bring_to_its_end(path, teacher)  # has no owner's file at hand, and must not lose the better figure
    assert (resumed["agreement"], resumed["agreement_on"]) == (summary["agreement"], OWNER_FILE)
    with open_run(path) as folder:
        assert pipeline.evaluate(folder, None, cpu)["agreement"] == first["agreement"]
    assert teacher.calls == calls


@pytest.mark.parametrize(
    ("prepare", "message"),
    [
        (
            lambda path: write_owner_file(path, teacher="another"),
            "teacher another 1; .*bought from fake 1",
        ),
        (lambda path: write_owner_file(path, version="2"), "answers of teacher fake 2"),
        (lambda path: write_owner_file(path, images_digest="0" * 64), r"other images than digits \(test\)"),
        (lambda path: path.write_bytes(b"no npz"), "not a whole .npz file"),
        (lambda path: None, "cannot be read"),
    ],
    ids=["teacher", "version", "images", "damaged", "missing"],
)
def test_an_owners_file_about_something_else_is_refused(
    tmp_path: Path,
    finished: Finished,
    prepare: Callable[[Path], object],
    message: str,
) -> None:
    owner_file = tmp_path / "answers.npz"
    prepare(owner_file)
    before = (finished[0] / "summary.json").read_text()
    with open_run(finished[0]) as folder, pytest.raises(ConfigError, match=message) as caught:
        pipeline.evaluate(folder, owner_file, torch.device("cpu"))
    assert str(caught.value).count(str(owner_file)) == 1
    assert (finished[0] / "summary.json").read_text() == before


def test_an_unfinished_run_is_not_evaluated(tmp_path: Path) -> None:
    begin(tmp_path / "run", tiny_config(), FakeTeacher())
    with open_run(tmp_path / "run") as folder, pytest.raises(RunStoreError, match="no summary yet"):
        pipeline.evaluate(folder, None, torch.device("cpu"))


class Busy(FakeTeacher):
    """Another run buys under the same key whenever the log is read, ``times`` in all."""

    times = 2

    def events(self) -> Any:
        seen: list[Event] = list(self.log)
        if self.times:
            self.times -= 1
            self.charge_other_run(3)
        return iter(seen)


def test_a_purchase_by_another_run_during_the_audit_is_no_mismatch(
    finished: Finished,
) -> None:
    path, teacher, _ = finished
    busy = Busy(log=list(teacher.log))
    busy.log.pop()  # the create event that every fake begins with
    busy.append(kind="grant", images=50)
    with open_run(path) as folder:
        audit = audit_folder(folder, busy)
    assert isinstance(audit, Audit)
    assert audit.is_equal
    assert (audit.bought, audit.spent_by_other_runs) == (100, 36)


def test_an_audit_against_a_teacher_that_forgot_names_every_batch(
    finished: Finished,
) -> None:
    with open_run(finished[0]) as folder:
        audit = audit_folder(folder, FakeTeacher(budget=130))
    assert isinstance(audit, Audit)
    assert (audit.bought, audit.charged_by_server, audit.in_audit_log) == (100, 0, 0)
    assert len(audit.faults) == len([event for event in finished[1].log if event.kind == "answer"]) - 1
