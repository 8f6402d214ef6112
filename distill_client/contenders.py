"""Who is trained on what: our student, and the two baselines it is measured against, under one schedule."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import safetensors.torch
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from torch import nn

from distill_client.config import Augmentation, EnsembleConfig, RunConfig
from distill_client.durable import write_durably
from distill_client.errors import ConfigError, RunStoreError
from distill_client.pool import Pool
from distill_client.randomness import torch_generator
from distill_client.student.augmentation import with_blends, without_blends
from distill_client.student.checkpoint import Checkpoint
from distill_client.student.ensemble import Ensemble, prior_shift
from distill_client.student.lending import call_ranks
from distill_client.student.lessons import Lessons
from distill_client.student.losses import Loss, targets_for
from distill_client.student.networks import create_student
from distill_client.student.stacking import gains_by_stacking, side_by_side
from distill_client.student.targets import answered_rows, targets_from_values, top_classes
from distill_client.student.training import train_student
from distill_client.teachers.paid.labelled import LabelledImages
from shared.counting import counted

STUDENT = "student"
STANDARD_KD = "standard_kd"
STUDENT_ALONE = "student_alone"
INITIAL_WEIGHTS = "student.initial-weights"
_TOGETHER = ".members"

Heard = Callable[[int, int, float], None]  # (step, steps, loss) of a training


def prepare_lessons(
    config: RunConfig, pool: Pool, bought: LabelledImages, held_out_n: NDArray[np.bool_], loss: Loss
) -> dict[str, Lessons]:
    """What each contender is taught by ``loss``; ``bought`` starts with the pool's images, in the pool's order.

    Answers that were paid for and rejected stay in their places, and nobody learns from them. Raises ConfigError
    where nothing is left to learn from.
    """
    classes, pool_images = len(pool.class_names), len(pool.images_nhwc)
    taught = ~held_out_n & answered_rows(bought.values)
    in_pool = taught & (np.arange(len(taught)) < pool_images)
    bounds = config.augmentation

    def answered(rows_n: NDArray[np.int64], augmentation: Augmentation) -> Lessons:
        if not len(rows_n):
            raise ConfigError(
                f"all of the {len(taught)} answers are rejected or held out, so there is nothing to learn from: the "
                "teacher's labels are not the run's classes, or evaluation.held_out_fraction is "
                f"{config.evaluation.held_out_fraction}"
            )
        targets_nk = targets_for(loss, bought.values[rows_n], classes)
        return Lessons(bought.images_nhwc, targets_nk, augmentation, bounds, rows_n)

    pool_n = np.flatnonzero(in_pool)
    learnt_n = np.concatenate([np.tile(pool_n, config.student.pool_repeats), np.flatnonzero(taught & ~in_pool)])
    lessons = {STUDENT: answered(learnt_n, config.student.augmentation)}
    if loss.name == "labels":
        shift_k = _prior_shift(config, bought, learnt_n, in_pool, classes)
        lessons[STUDENT] = replace(lessons[STUDENT], prior_shift_k=shift_k)
    lessons[STUDENT] = replace(lessons[STUDENT], amplification=_ensemble(config, loss), real_n=in_pool[learnt_n])
    if config.baselines.standard_kd:
        lessons[STANDARD_KD] = answered(pool_n, config.baselines.standard_kd_augmentation)
    if config.baselines.student_alone and pool.truth_n is not None:
        # The only use of true labels, and for comparison only: what these few images give without any teacher.
        truth_nk = targets_from_values(pool.truth_n, classes)
        augmentation = config.baselines.student_alone_augmentation
        lessons[STUDENT_ALONE] = Lessons(pool.images_nhwc, truth_nk, augmentation, bounds)
    return lessons


def describe_learning(config: RunConfig, loss: Loss) -> str:
    """How our student learns, in a line."""
    said = [loss.sentence]
    if (taught_by := _ensemble(config, loss)) is not None:
        answers = "labels" if loss.name == "labels" else "answers"
        said.append(f"the student also from an ensemble of {counted(taught_by.ensemble, 'student')} of the {answers}")
    if loss.name == "labels" and config.label_only.prior_correction:
        said.append("corrected for the prior of synthetic images")
    return "; ".join(said)


def _ensemble(config: RunConfig, loss: Loss) -> EnsembleConfig | None:
    """The ensemble that teaches our student beside the answers; None where there is to be none."""
    taught_by = config.label_only if loss.name == "labels" else config.amplification
    return taught_by if taught_by.ensemble else None


def _prior_shift(
    config: RunConfig,
    bought: LabelledImages,
    learnt_n: NDArray[np.int64],
    in_pool: NDArray[np.bool_],
    classes: int,
) -> NDArray[np.float32] | None:
    if not config.label_only.prior_correction:
        return None
    return prior_shift(top_classes(bought.values[learnt_n]), in_pool[learnt_n], classes)


def fresh_network(
    config: RunConfig, *, image_hwc: tuple[int, int, int], classes: int, weights: str = INITIAL_WEIGHTS
) -> nn.Module:
    """The student's network with the run's initial weights; the same for every contender, others by another name."""
    generator = torch_generator(config.seed, weights)
    return create_student(config.student.network, image_hwc=image_hwc, classes=classes, generator=generator)


def train_contender(
    config: RunConfig,
    contender: str,
    lessons: Lessons,
    *,
    device: torch.device,
    checkpoint_path: Path,
    progress: Heard,
) -> tuple[nn.Module, list[dict[str, float]]]:
    """Train one contender, going on from its checkpoint if there is one; return it with its training reports.

    Where the lessons ask for an ensemble (``ensemble`` says why), its members are trained first: as one where that is
    faster (``gains_by_stacking``), or one after the other. Either has a checkpoint of its own beside
    ``checkpoint_path``, and what is finished is read from there. ``progress`` hears of all as one.
    """
    height, width, channels = lessons.images_nhwc.shape[1:]

    def train(
        part: str, weights: Sequence[str], taught: Lessons, heard: Heard
    ) -> tuple[nn.Module, list[dict[str, float]]]:
        """One training; ``part`` tells it from the contender's others, ``weights`` names those of each network."""
        shape = {"image_hwc": (height, width, channels), "classes": taught.targets_nk.shape[1]}
        network = side_by_side([fresh_network(config, **shape, weights=name) for name in weights]).to(device)
        generator = torch_generator(config.seed, f"train.{contender}{part}", device)
        seed, checkpoint = generator.initial_seed(), Checkpoint(_part_path(checkpoint_path, part))
        call_ranks(config.student.network, taught, config.training, seed, device, len(weights))
        return network, train_student(network, taught, config.training, generator, checkpoint, heard)

    if (amplification := lessons.amplification) is None:
        return train("", [INITIAL_WEIGHTS], lessons, progress)
    count, networks = amplification.ensemble, []
    as_answered = replace(lessons, amplification=None, augmentation=with_blends(lessons.augmentation))
    members = _member_parts(count)
    together = gains_by_stacking(config.student.network, device)
    for done, (part, trained) in enumerate([(_TOGETHER, members)] if together else [(one, [one]) for one in members]):
        weights = [f"{contender}{one}.initial-weights" for one in trained]
        heard = _as_part(progress, done, len(trained), count + 1)
        networks.append(train(part, weights, as_answered, heard)[0].eval())
    augmentation = without_blends(lessons.augmentation)  # what blends are is the ensemble's to say
    taught = replace(as_answered, augmentation=augmentation, ensemble=Ensemble(networks, amplification))
    return train("", [INITIAL_WEIGHTS], taught, _as_part(progress, count, 1, count + 1))


def _as_part(progress: Heard, done: int, trained: int, trainings: int) -> Heard:
    """Tell of ``trained`` trainings at once, after ``done``, as a part of ``trainings`` equally long ones."""
    return lambda step, steps, loss: progress(done * steps + trained * step, trainings * steps, loss)


def _member_parts(count: int) -> list[str]:
    return [f".member-{number}" for number in range(count)]


def _part_path(checkpoint_path: Path, part: str) -> Path:
    return checkpoint_path.with_stem(checkpoint_path.stem + part)


def remove_checkpoints(config: RunConfig, checkpoint_path: Path) -> None:
    """Remove what ``train_contender`` left at and beside ``checkpoint_path``, once the contender is kept."""
    members = max(config.label_only.ensemble, config.amplification.ensemble)
    for part in ["", _TOGETHER, *_member_parts(members)]:
        _part_path(checkpoint_path, part).unlink(missing_ok=True)


def save_network(network: nn.Module, path: Path) -> None:
    """Write weights so that ``path`` holds them whole or not at all."""
    weights = {name: tensor.contiguous().cpu() for name, tensor in network.state_dict().items()}
    write_durably(path, safetensors.torch.save(weights))


def restore_network(network: nn.Module, path: Path) -> nn.Module:
    """Load weights into a network of the same architecture. Raises RunStoreError when they do not fit."""
    try:
        network.load_state_dict(safetensors.torch.load_file(path))
    except (OSError, SafetensorError, RuntimeError) as error:
        raise RunStoreError(f"{path}: the weights cannot be read: {error}") from error
    return network.eval()
