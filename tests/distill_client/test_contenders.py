from pathlib import Path

import numpy as np
import pytest
import torch

from distill_client import contenders
from distill_client.contenders import (
    INITIAL_WEIGHTS,
    STANDARD_KD,
    STUDENT,
    STUDENT_ALONE,
    describe_learning,
    fresh_network,
    prepare_lessons,
    remove_checkpoints,
    restore_network,
    save_network,
    train_contender,
)
from distill_client.errors import ConfigError, RunStoreError
from distill_client.plan import draw_held_out
from distill_client.pool import Pool
from distill_client.student.ensemble import prior_shift
from distill_client.student.lessons import Lessons
from distill_client.student.losses import Loss, choose_loss
from distill_client.student.stacking import networks_in
from distill_client.teachers.paid.labelled import LabelledImages
from distill_client.teachers.protocol import Values
from tests.distill_client.fakes import Interrupted, SilentReporter, answer_to, tiny_config

CPU = torch.device("cpu")


def some_pool(count: int = 40) -> Pool:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (count, 28, 28, 1), np.uint8)
    return Pool(images, rng.integers(10, size=count), tuple("0123456789"))


def bought(pool: Pool, more: int = 60, disclosure: str = "probabilities") -> LabelledImages:
    synthetic = np.random.default_rng(1).integers(0, 256, (more, 28, 28, 1), np.uint8)
    images = np.concatenate([pool.images_nhwc, synthetic])
    return LabelledImages(images, answer_to(images, disclosure))


def loss_of(bought: LabelledImages) -> Loss:
    return choose_loss("told by the values", bought.values, "lump")


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
    lessons = prepare_lessons(config, pool, whole, held_out, loss_of(whole))
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


@pytest.mark.parametrize("disclosure", ["probabilities", "label"])
def test_the_students_real_images_come_as_often_as_is_set_each_with_its_answer(disclosure: str) -> None:
    changes = {"student": {"pool_repeats": 3}, "label_only": {"prior_correction": True}}
    once, thrice, pool = tiny_config(), tiny_config(**changes), some_pool()
    whole, held_out = bought(pool, disclosure=disclosure), draw_held_out(tiny_config(), 100)
    plain, repeated = (prepare_lessons(config, pool, whole, held_out, loss_of(whole)) for config in (once, thrice))
    real, made = whole.images_nhwc[:40][~held_out[:40]], whole.images_nhwc[40:][~held_out[40:]]
    assert np.array_equal(taught(repeated[STUDENT]), np.concatenate([real, real, real, made]))
    targets_nk, real_nk = plain[STUDENT].targets_nk, plain[STUDENT].targets_nk[: len(real)]
    assert np.array_equal(repeated[STUDENT].targets_nk, np.concatenate([real_nk, real_nk, targets_nk]))
    real_n = repeated[STUDENT].real_n
    assert real_n is not None
    assert np.array_equal(real_n, np.arange(len(targets_nk) + 2 * len(real)) < 3 * len(real))
    for baseline in (STANDARD_KD, STUDENT_ALONE):
        assert repeated[baseline].real_n is None, "all of them"
        assert np.array_equal(taught(repeated[baseline]), taught(plain[baseline]))
    if disclosure == "label":
        labels, in_pool = repeated[STUDENT].targets_nk.argmax(axis=1), np.arange(len(targets_nk) + 2 * len(real))
        shift_k = repeated[STUDENT].prior_shift_k
        assert shift_k is not None
        assert np.array_equal(shift_k, prior_shift(labels, in_pool < 3 * len(real), 10)), "of what is learnt"


def test_no_true_label_reaches_the_student_or_standard_kd() -> None:
    config, pool = tiny_config(), some_pool()
    assert pool.truth_n is not None
    relabelled = Pool(pool.images_nhwc, (pool.truth_n + 1) % 10, pool.class_names)
    held_out = draw_held_out(config, 100)
    whole = bought(pool)
    one, other = (prepare_lessons(config, which, whole, held_out, loss_of(whole)) for which in (pool, relabelled))
    for contender in (STUDENT, STANDARD_KD):
        assert np.array_equal(one[contender].targets_nk, other[contender].targets_nk)
    assert not np.array_equal(one[STUDENT_ALONE].targets_nk, other[STUDENT_ALONE].targets_nk)


def test_baselines_can_be_left_out() -> None:
    config = tiny_config(baselines={"student_alone": False, "standard_kd": False})
    pool, whole = some_pool(), bought(some_pool())
    assert set(prepare_lessons(config, pool, whole, draw_held_out(config, 100), loss_of(whole))) == {STUDENT}


def reject(answers: LabelledImages, rows: list[int]) -> LabelledImages:
    """The same, as a label map leaves it that knows nothing of some answers."""
    values: Values = answers.values.copy()
    values[rows] = -1 if values.ndim == 1 else np.nan
    return LabelledImages(answers.images_nhwc, values)


@pytest.mark.parametrize("disclosure", ["probabilities", "top-k:3", "label"])
def test_nobody_learns_from_rejected_answers_and_everything_else_stays_in_its_place(disclosure: str) -> None:
    config, pool = tiny_config(), some_pool()
    whole, held_out = bought(pool, disclosure=disclosure), draw_held_out(config, 100)
    rejected = [int(np.flatnonzero(~held_out)[1]), int(np.flatnonzero(held_out)[0]), 39, 40, 99]
    partly = reject(whole, rejected)
    some, everything = (
        prepare_lessons(config, pool, answers, held_out, loss_of(answers)) for answers in (partly, whole)
    )
    for contender, images in ((STUDENT, 100), (STANDARD_KD, 40)):
        left = [row for row in range(images) if not held_out[row] and row not in rejected]
        assert np.array_equal(taught(some[contender]), whole.images_nhwc[left])
        rows_n = everything[contender].rows_n
        assert rows_n is not None
        kept_n = np.isin(rows_n, left)
        assert np.array_equal(some[contender].targets_nk, everything[contender].targets_nk[kept_n], equal_nan=True)
        assert 0 < len(some[contender]) < len(everything[contender])
    assert np.array_equal(taught(some[STUDENT_ALONE]), pool.images_nhwc)  # true labels are not the teacher's


def test_where_every_answer_is_rejected_there_is_nothing_to_learn() -> None:
    config, pool = tiny_config(), some_pool()
    for rows, message in ((list(range(100)), "all of the 100"), (list(range(40)), "all of the 100")):
        nothing = reject(bought(pool), rows)
        with pytest.raises(ConfigError, match=message):
            prepare_lessons(config, pool, nothing, draw_held_out(config, 100), loss_of(nothing))


def test_labels_are_learnt_with_an_ensemble_by_the_student_alone() -> None:
    pool, labels = some_pool(), bought(some_pool(), disclosure="label")
    for changes in ({}, {"prior_correction": True}, {"ensemble": 0}, {"ensemble": 0, "prior_correction": True}):
        config = tiny_config(label_only=changes)
        held_out = draw_held_out(config, 100)
        lessons = prepare_lessons(config, pool, labels, held_out, loss_of(labels))
        assert lessons[STUDENT].amplification == (None if "ensemble" in changes else config.label_only)
        shift_k = lessons[STUDENT].prior_shift_k
        if "prior_correction" in changes:
            taught_n = labels.values[~held_out].astype(np.int64)
            expected_k = prior_shift(taught_n, np.flatnonzero(~held_out) < 40, 10)
            assert shift_k is not None
            assert np.array_equal(shift_k, expected_k)
            assert np.abs(shift_k).max() > 0.05
        else:
            assert shift_k is None
        for baseline in (STANDARD_KD, STUDENT_ALONE):
            assert lessons[baseline].amplification is None
            assert lessons[baseline].prior_shift_k is None
    probabilities = prepare_lessons(config, pool, bought(pool), held_out, loss_of(bought(pool)))
    assert (probabilities[STUDENT].amplification, probabilities[STUDENT].prior_shift_k) == (None, None)


@pytest.mark.parametrize("disclosure", ["probabilities", "top-k:3"])
def test_answers_are_amplified_where_it_is_asked_for(disclosure: str) -> None:
    config, pool = tiny_config(amplification={"ensemble": 2}), some_pool()
    answers = bought(pool, disclosure=disclosure)
    loss = loss_of(answers)
    lessons = prepare_lessons(config, pool, answers, draw_held_out(config, 100), loss)
    assert lessons[STUDENT].amplification == config.amplification
    assert np.isnan(lessons[STUDENT].targets_nk).any() == (disclosure == "top-k:3")
    assert (lessons[STANDARD_KD].amplification, lessons[STUDENT_ALONE].amplification) == (None, None)
    of_two = "; the student also from an ensemble of 2 students of the answers"
    assert of_two in describe_learning(config, loss)
    assert of_two not in describe_learning(tiny_config(), loss)


@pytest.mark.parametrize(
    ("together", "killed_at", "goes_on_at"),
    [
        (True, 2, 2),
        (True, 38, 2),
        (True, 40, 2),
        (True, 41, 41),
        (True, 59, 41),
        (False, 1, 1),
        (False, 20, 1),
        (False, 21, 21),
        (False, 37, 21),
        (False, 41, 41),
    ],
)
def test_an_ensembles_training_that_is_killed_ends_as_if_it_had_never_stopped(
    tmp_path: Path, together: bool, killed_at: int, goes_on_at: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two members and the student, of 20 steps each, told as 60; a killed training may only lose its own steps."""
    monkeypatch.setattr(contenders, "gains_by_stacking", lambda *_: together)
    told = [*(range(2, 41, 2) if together else range(1, 41)), *range(41, 61)]
    config, pool = tiny_config(label_only={"ensemble": 2, "prior_correction": True}), some_pool()
    labels = bought(pool, disclosure="label")
    lessons = prepare_lessons(config, pool, labels, draw_held_out(config, 100), loss_of(labels))[STUDENT]
    heard: list[int] = []

    def train(path: Path, kill_at: int = 0) -> tuple[torch.nn.Module, list[dict[str, float]]]:
        def hear(step: int, steps: int, loss: float) -> None:
            assert steps == 60
            heard.append(step)
            if step == kill_at:
                raise Interrupted

        return train_contender(config, STUDENT, lessons, device=CPU, checkpoint_path=path, progress=hear)

    whole, metrics = train(tmp_path / "whole" / "student.safetensors")
    assert heard == told
    path = tmp_path / "killed" / "student.safetensors"
    with pytest.raises(Interrupted):
        train(path, killed_at)
    heard.clear()
    resumed, resumed_metrics = train(path)
    assert heard == told[told.index(goes_on_at) :]  # what is finished is read, not trained again
    assert resumed_metrics == metrics
    for name, tensor in whole.state_dict().items():
        assert torch.equal(resumed.state_dict()[name], tensor)
    parts = ["members"] if together else ["member-0", "member-1"]
    files = [f"student.{part}.safetensors" for part in parts] + ["student.safetensors"]
    assert sorted(file.name for file in path.parent.iterdir()) == files
    remove_checkpoints(config, path)
    assert list(path.parent.iterdir()) == []
    remove_checkpoints(config, path)


@pytest.mark.parametrize("together", [True, False])
@pytest.mark.parametrize(
    ("configured", "members", "student"),
    [
        ("none", "mixup", "none"),
        ("combination", "combination", "geometric"),
        ("geometric", "combination", "geometric"),
    ],
)
def test_members_learn_blends_of_labels_and_the_student_the_ensembles_word_for_them(
    tmp_path: Path, configured: str, members: str, student: str, together: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained: list[Lessons] = []
    seeds: list[int] = []
    starts: list[torch.Tensor] = []

    def spy(
        network: torch.nn.Module, lessons: Lessons, schedule: object, generator: torch.Generator, *rest: object
    ) -> list[dict[str, float]]:
        trained.append(lessons)
        seeds.append(generator.initial_seed())
        starts.extend(next(network.parameters()).detach().clone().chunk(networks_in(network)))
        return []

    monkeypatch.setattr(contenders, "gains_by_stacking", lambda *_: together)
    monkeypatch.setattr(contenders, "train_student", spy)
    config, labels = tiny_config(student={"augmentation": configured}), bought(some_pool(), disclosure="label")
    lessons = prepare_lessons(config, some_pool(), labels, draw_held_out(config, 100), loss_of(labels))[STUDENT]
    path = tmp_path / "student.safetensors"
    train_contender(config, STUDENT, lessons, device=CPU, checkpoint_path=path, progress=lambda *_: None)
    trainings = 1 if together else 3
    assert [each.augmentation for each in trained] == [members] * trainings + [student]
    assert [each.ensemble is None for each in trained] == [True] * trainings + [False]
    assert trained[-1].ensemble is not None
    assert not any(network.training for network in trained[-1].ensemble.networks)
    assert all(np.array_equal(each.targets_nk, lessons.targets_nk) for each in trained)

    assert len(set(seeds)) == trainings + 1
    assert not any(torch.equal(one, other) for number, one in enumerate(starts) for other in starts[:number])
    names = [f"student.member-{number}.initial-weights" for number in range(3)] + [INITIAL_WEIGHTS]
    for start, name in zip(starts, names, strict=True):  # the same ones, together or apart
        fresh = fresh_network(config, image_hwc=(28, 28, 1), classes=10, weights=name)
        assert torch.equal(start, next(fresh.parameters()))


def test_students_of_all_but_one_class_and_their_ensemble_are_those_of_whole_answers(tmp_path: Path) -> None:
    """Through the whole of it: what one class lacks is told by the others, but learnt as a tail."""
    config, pool = tiny_config(amplification={"ensemble": 2}, training={"steps": 4}), some_pool()
    trained = []
    for disclosure, name in (("probabilities", "distribution"), ("top-k:9", "lumped tail")):
        answers = bought(pool, disclosure=disclosure)
        loss = loss_of(answers)
        assert loss.name == name
        lessons = prepare_lessons(config, pool, answers, draw_held_out(config, 100), loss)[STUDENT]
        path = tmp_path / f"{disclosure}.safetensors"
        trained.append(
            train_contender(config, STUDENT, lessons, device=CPU, checkpoint_path=path, progress=lambda *_: None)[0]
        )
    start = fresh_network(config, image_hwc=(28, 28, 1), classes=10).state_dict()
    whole, named = (network.state_dict() for network in trained)
    for name, tensor in whole.items():
        assert torch.allclose(named[name], tensor, atol=2e-4)
        assert not torch.allclose(start[name], tensor, atol=2e-4)


def test_contenders_begin_with_the_same_weights_and_are_saved_whole(tmp_path: Path) -> None:
    config, pool = tiny_config(training={"steps": 3}), some_pool()
    whole = bought(pool)
    lessons = prepare_lessons(config, pool, whole, draw_held_out(config, 100), loss_of(whole))
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
