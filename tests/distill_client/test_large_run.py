"""Large images are kept and trained on as bytes, in memory or mapped from files, and never all of them as floats."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from distill_client.config import TrainingConfig
from distill_client.randomness import torch_generator
from distill_client.student import lessons as lessons_module
from distill_client.student.lessons import LessonImages, Lessons
from distill_client.student.networks import create_student
from distill_client.student.training import train_student
from distill_client.teachers.paid import labelled as labelled_module
from distill_client.teachers.paid.store import PaidLabels
from tests.distill_client.fakes import FakeTeacher

PROJECT = Path(__file__).resolve().parents[2]


def test_a_run_at_224x224_takes_far_less_memory_than_its_images_as_floats() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.distill_client.large_run"],
        cwd=PROJECT,
        env={**os.environ, "OMP_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "2"},
        capture_output=True,
        text=True,
        check=False,
        timeout=250,
    )
    assert done.returncode == 0, done.stderr
    measured = json.loads(done.stdout)
    assert measured["images"] >= 1_790  # of 1,800 planned, a blend that is all one picture is not bought again
    assert measured["as_float_mb"] >= 1_078
    assert measured["peak_mb"] - measured["before_mb"] < 0.7 * measured["as_float_mb"], measured


def some_lessons(count: int = 50, **options: object) -> Lessons:
    rng = np.random.default_rng(0)
    targets = rng.random((count, 10)) + 0.1
    images = rng.integers(0, 256, (60, 28, 28, 1), np.uint8)
    return Lessons(images, (targets / targets.sum(axis=1, keepdims=True)).astype(np.float32), **options)  # type: ignore[arg-type]


def test_chosen_rows_are_taught_as_if_they_had_been_copied_out() -> None:
    rows_n = np.random.default_rng(1).permutation(60)[:50]
    by_rows = some_lessons(rows_n=rows_n)
    copied = Lessons(by_rows.images_nhwc[rows_n], by_rows.targets_nk)
    assert b"".join(by_rows.image_bytes()) == b"".join(copied.image_bytes()) == copied.images_nhwc.tobytes()
    weights = []
    for lessons in (by_rows, copied):
        network = create_student(
            "lenet5-half", image_hwc=(28, 28, 1), classes=10, generator=torch_generator(1, "network")
        )
        train_student(network, lessons, TrainingConfig(steps=12, batch_size=16), torch_generator(1, "training"))
        weights.append(network.state_dict())
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    with pytest.raises(ValueError, match="60 images cannot be learnt from 50 answers"):
        some_lessons()


def test_images_kept_on_a_device_and_images_sent_to_it_are_the_same_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    lessons = some_lessons(rows_n=np.arange(50)[::-1].copy())
    cpu = torch.device("cpu")
    sent = LessonImages(lessons, cpu)
    kept = LessonImages(lessons, cpu)
    kept._resident = torch.from_numpy(lessons.gather(np.arange(50)))
    rows = torch.randperm(50, generator=torch_generator(1, "rows"))[:16]
    batch = sent.batch(rows)
    assert torch.equal(batch, kept.batch(rows))
    assert batch.stride() == kept.batch(rows).stride()
    assert batch.is_contiguous(memory_format=torch.channels_last)
    monkeypatch.setattr(lessons_module, "DEVICE_BYTES_MAX", 10)
    assert LessonImages(lessons, torch.device("meta"))._resident is None


def test_many_bought_images_are_mapped_and_are_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    teacher, store = FakeTeacher(), PaidLabels(tmp_path / "answers.sqlite", run_id="0" * 32)
    rng = np.random.default_rng(0)
    stages = {name: rng.integers(0, 256, (20, 28, 28, 1), np.uint8) for name in ("pool", "mixup")}
    stages["mixup"][3] = stages["pool"][5]  # a repeated image is bought once
    for name, images in stages.items():
        store.record_stage(name, iter([images[:7], images[7:8], images[8:]]), images_per_request=6)
        for number in store.unanswered(name):
            batch = store.read_batch(number)
            store.keep_answer(number, teacher.label(batch.images_nhwc, batch.idempotency_key))
    whole = store.labelled("pool", "mixup")
    monkeypatch.setattr(labelled_module, "_MEMORY_BYTES_MAX", 1000)
    mapped = store.labelled("pool", "mixup")
    assert isinstance(mapped.images_nhwc, np.memmap)
    assert np.array_equal(mapped.images_nhwc, np.concatenate(list(stages.values())))
    assert np.array_equal(mapped.images_nhwc, whole.images_nhwc)
    assert np.array_equal(mapped.values, whole.values)
    assert teacher.spent == 39
    assert len(store.labelled("pool", "mixup", first=3).values) == 6
    store.close()


def test_blocks_are_cut_into_the_same_batches_as_one_array(tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (23, 8, 8, 1), np.uint8)
    keys = []
    for name, given in (("whole", images), ("blocks", iter([images[:10], images[10:11], images[11:]]))):
        store = PaidLabels(tmp_path / name, run_id="0" * 32)
        store.record_stage("pool", given, images_per_request=4)
        keys.append([store.read_batch(number).idempotency_key for number in store.unanswered("pool")])
        store.close()
    assert keys[0] == keys[1]
    assert len(keys[0]) == 6


def test_nothing_of_a_stage_is_recorded_when_its_rendering_fails_half_way(tmp_path: Path) -> None:
    def failing() -> object:
        yield np.zeros((5, 8, 8, 1), np.uint8)
        raise ValueError("the generator diverged")

    store = PaidLabels(tmp_path / "answers.sqlite", run_id="0" * 32)
    with pytest.raises(ValueError, match="diverged"):
        store.record_stage("pool", failing(), images_per_request=2)  # type: ignore[arg-type]
    assert store.stages() == []
    assert store.recorded_keys() == frozenset()
    store.close()
