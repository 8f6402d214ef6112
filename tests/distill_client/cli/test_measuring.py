"""`distill evaluate` and `distill predict`, of a run that the real application sold its answers to."""

import json
from pathlib import Path

import numpy as np
from PIL import Image

from shared.datasets import load_dataset
from shared.wire.images import batch_digest, image_digests
from shared.wire.teacher_answers import TeacherAnswers, write_teacher_answers
from tests.distill_client.cli.support import Finished, distill, one_object
from tests.distill_client.fakes import answer_to


def test_evaluate_asks_the_teacher_nothing(finished: Finished, tmp_path: Path) -> None:
    test = load_dataset("digits", "test")
    write_teacher_answers(
        tmp_path / "answers.npz",
        TeacherAnswers(
            teacher="fake",
            version="1",
            dataset="digits",
            split="test",
            images_digest=batch_digest(image_digests(test.images_nhwc)),
            probabilities_nk=answer_to(test.images_nhwc).astype(np.float32),
        ),
    )
    summary = one_object(
        distill("evaluate", finished.path, "--teacher-answers", tmp_path / "answers.npz", "--json", key="")
    )
    assert summary["agreement_images"] == 450
    assert one_object(distill("evaluate", finished.path, "--json")) == finished.summary


def test_predict_names_a_class_for_every_file(finished: Finished, tmp_path: Path) -> None:
    files = [tmp_path / "a [1].png", tmp_path / "b.jpg"]
    for file in files:
        Image.new("L", (40, 30), 90).save(file)
    predictions = one_object(distill("predict", finished.path, *files, "--json"))["predictions"]
    assert [prediction["file"] for prediction in predictions] == [str(file) for file in files]
    bad = tmp_path / "text.jpg"
    bad.write_text("no picture")
    some = distill("predict", finished.path, files[0], bad, "--json")
    assert some.exit_code == 2
    assert [skipped["file"] for skipped in json.loads(some.stdout)["skipped"]] == [str(bad)]
    assert f"distill: {bad}: the file cannot be decoded" in some.stderr
    text = distill("predict", finished.path, *files)
    assert [line.rpartition(":")[0] for line in text.stdout.splitlines()] == [str(file) for file in files]
