from pathlib import Path

import numpy as np
import pytest
import torch

from distill_client.contenders import (
    STANDARD_KD,
    STUDENT,
    STUDENT_ALONE,
    fresh_network,
    prepare_lessons,
    restore_network,
    save_network,
    train_contender,
)
from distill_client.errors import RunStoreError
from distill_client.plan import draw_held_out
from distill_client.pool import Pool
from distill_client.student.lessons import Lessons
from distill_client.teachers.paid.labelled import LabelledImages
from tests.distill_client.fakes import SilentReporter, answer_to, tiny_config

CPU = torch.device("cpu")


def some_pool(count: int = 40) -> Pool:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (count, 28, 28, 1), np.uint8)
    return Pool(images, rng.integers(10, size=count), tuple("0123456789"))


def bought(pool: Pool, more: int = 60) -> LabelledImages:
    synthetic = np.random.default_rng(1).integers(0, 256, (more, 28, 28, 1), np.uint8)
    images = np.concatenate([pool.images_nhwc, synthetic])
    return LabelledImages(images, answer_to(images))


def taught(lessons: Lessons) -> np.ndarray:
    return lessons.gather(np.arange(len(lessons)))


@pytest.mark.parametrize(("fraction", "count"), [(0, 0), (0.1, 10), (0.015, 2), (0.49, 49)])
def test_held_out_answers_are_so_many_and_always_the_same(fraction: float, count: int) -> None:
    config = tiny_config(evaluation={"held_out_fraction": fraction})
    held_out = draw_held_out(config, 100)
    assert held_out.sum() == count
    assert np.array_equal(held_out, draw_held_out(config, 100))
    if count:
        other_seed = tiny_config(seed=2, evaluation={"held_out_fraction": fraction})
        assert not np.array_equal(held_out, draw_held_out(other_seed, 100))


def test_nobody_learns_from_held_out_answers_and_the_baselines_only_from_the_pool() -> None:
    config, pool = tiny_config(baselines={"standard_kd_augmentation": "geometric"}), some_pool()
    whole, held_out = bought(pool), draw_held_out(tiny_config(), 100)
    lessons = prepare_lessons(config, pool, whole, held_out)
    assert set(lessons) == {STUDENT, STANDARD_KD, STUDENT_ALONE}
    assert np.array_equal(taught(lessons[STUDENT]), whole.images_nhwc[~held_out])
    assert np.allclose(lessons[STUDENT].targets_nk, answer_to(whole.images_nhwc[~held_out]), atol=1e-5)
    in_pool = ~held_out[:40]
    assert np.array_equal(taught(lessons[STANDARD_KD]), pool.images_nhwc[in_pool])
    assert np.allclose(lessons[STANDARD_KD].targets_nk, answer_to(pool.images_nhwc[in_pool]), atol=1e-5)
    assert np.array_equal(taught(lessons[STUDENT_ALONE]), pool.images_nhwc)
    assert pool.truth_n is not None
    assert np.array_equal(lessons[STUDENT_ALONE].targets_nk.argmax(axis=1), pool.truth_n)
    assert [lessons[name].augmentation for name in (STUDENT, STANDARD_KD, STUDENT_ALONE)] == [
        "combination",
        "geometric",
        "none",
    ]


def test_no_true_label_reaches_the_student_or_standard_kd() -> None:
    config, pool = tiny_config(), some_pool()
    assert pool.truth_n is not None
    relabelled = Pool(pool.images_nhwc, (pool.truth_n + 1) % 10, pool.class_names)
    held_out = draw_held_out(config, 100)
    one, other = (prepare_lessons(config, which, bought(pool), held_out) for which in (pool, relabelled))
    for contender in (STUDENT, STANDARD_KD):
        assert np.array_equal(one[contender].targets_nk, other[contender].targets_nk)
    assert not np.array_equal(one[STUDENT_ALONE].targets_nk, other[STUDENT_ALONE].targets_nk)


def test_baselines_can_be_left_out() -> None:
    config = tiny_config(baselines={"student_alone": False, "standard_kd": False})
    pool = some_pool()
    assert set(prepare_lessons(config, pool, bought(pool), draw_held_out(config, 100))) == {STUDENT}


def test_contenders_begin_with_the_same_weights_and_are_saved_whole(tmp_path: Path) -> None:
    config, pool = tiny_config(training={"steps": 3}), some_pool()
    lessons = prepare_lessons(config, pool, bought(pool), draw_held_out(config, 100))
    one, same = (fresh_network(config, image_hwc=(28, 28, 1), classes=10).state_dict() for _ in "ab")
    assert all(torch.equal(one[name], same[name]) for name in one)
    heard = SilentReporter().training("student")
    network, metrics = train_contender(
        config, STUDENT, lessons[STUDENT], device=CPU, checkpoint_path=tmp_path / "c.safetensors", progress=heard
    )
    assert [row["step"] for row in metrics] == [1, 2, 3]
    save_network(network, tmp_path / "n.safetensors")
    restored = restore_network(fresh_network(config, image_hwc=(28, 28, 1), classes=10), tmp_path / "n.safetensors")
    assert not restored.training
    for name, tensor in network.state_dict().items():
        assert torch.equal(restored.state_dict()[name], tensor)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["c.safetensors", "n.safetensors"]


def test_weights_that_are_missing_damaged_or_of_another_network_are_refused(tmp_path: Path) -> None:
    config, path = tiny_config(), tmp_path / "n.safetensors"
    network = fresh_network(config, image_hwc=(28, 28, 1), classes=10)
    with pytest.raises(RunStoreError, match="cannot be read"):
        restore_network(network, path)
    save_network(network, path)
    whole = fresh_network(tiny_config(student={"network": "lenet5"}), image_hwc=(28, 28, 1), classes=10)
    with pytest.raises(RunStoreError, match="cannot be read"):
        restore_network(whole, path)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(RunStoreError, match=r"n\.safetensors: the weights cannot be read"):
        restore_network(network, path)
