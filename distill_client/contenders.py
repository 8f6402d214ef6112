"""Who is trained on what: our student, and the two baselines it is measured against, under one schedule."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import safetensors.torch
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from torch import nn

from distill_client.config import Augmentation, RunConfig
from distill_client.durable import write_durably
from distill_client.errors import RunStoreError
from distill_client.pool import Pool
from distill_client.randomness import torch_generator
from distill_client.student.checkpoint import Checkpoint
from distill_client.student.lessons import Lessons
from distill_client.student.networks import create_student
from distill_client.student.targets import targets_from_values
from distill_client.student.training import train_student
from distill_client.teachers.paid.store import LabelledImages

STUDENT = "student"
STANDARD_KD = "standard_kd"
STUDENT_ALONE = "student_alone"


def prepare_lessons(
    config: RunConfig, pool: Pool, bought: LabelledImages, held_out_n: NDArray[np.bool_]
) -> dict[str, Lessons]:
    """What each contender is taught; ``bought`` starts with the pool's images, in the pool's order."""
    classes, pool_images = len(pool.class_names), len(pool.images_nhwc)
    targets_nk = targets_from_values(bought.values, classes)
    taught = ~held_out_n
    in_pool = taught & (np.arange(len(taught)) < pool_images)
    bounds = config.augmentation

    def answered(which: NDArray[np.bool_], augmentation: Augmentation) -> Lessons:
        return Lessons(bought.images_nhwc, targets_nk[which], augmentation, bounds, np.flatnonzero(which))

    lessons = {STUDENT: answered(taught, config.student.augmentation)}
    if config.baselines.standard_kd:
        lessons[STANDARD_KD] = answered(in_pool, config.baselines.standard_kd_augmentation)
    if config.baselines.student_alone and pool.truth_n is not None:
        # The only use of true labels, and for comparison only: what these few images give without any teacher.
        truth_nk = targets_from_values(pool.truth_n, classes)
        augmentation = config.baselines.student_alone_augmentation
        lessons[STUDENT_ALONE] = Lessons(pool.images_nhwc, truth_nk, augmentation, bounds)
    return lessons


def fresh_network(config: RunConfig, *, image_hwc: tuple[int, int, int], classes: int) -> nn.Module:
    """The student's network with the run's initial weights; the same for every contender."""
    generator = torch_generator(config.seed, "student.initial-weights")
    return create_student(config.student.network, image_hwc=image_hwc, classes=classes, generator=generator)


def train_contender(
    config: RunConfig,
    contender: str,
    lessons: Lessons,
    *,
    device: torch.device,
    checkpoint_path: Path,
    progress: Callable[[int, int, float], None],
) -> tuple[nn.Module, list[dict[str, float]]]:
    """Train one contender, going on from its checkpoint if there is one; return it with its training reports."""
    height, width, channels = lessons.images_nhwc.shape[1:]
    network = fresh_network(config, image_hwc=(height, width, channels), classes=lessons.targets_nk.shape[1]).to(
        device
    )
    generator = torch_generator(config.seed, f"train.{contender}", device)
    metrics = train_student(network, lessons, config.training, generator, Checkpoint(checkpoint_path), progress)
    return network, metrics


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
