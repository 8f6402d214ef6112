"""The training loop of a teacher, written inline: batches are varied on the device, the network learns the truth."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from shared.datasets import Dataset
from shared.networks import create_network
from shared.networks.penalty import parameter_groups
from teacher_server.teachers.forward import Preprocessing
from teacher_server.training.augmentation import varied_batch
from teacher_server.training.checkpoint import Checkpoint, TrainingState
from teacher_server.training.order import input_of
from teacher_server.training.recipes import Recipe

# Called with (steps done, steps in all, mean loss since the call before).
Progress = Callable[[int, int, float], None]

STEPS_PER_PROGRESS = 50
SECONDS_PER_CHECKPOINT = 10.0  # a kill costs at most so much and the epoch it falls into
ROWS_PER_MEASUREMENT = 250
DEVICE_BYTES_MAX = 4 << 30


def train_teacher(
    train: Dataset,
    network_name: str,
    recipe: Recipe,
    generator: torch.Generator,
    *,
    progress: Progress | None = None,
    checkpoint: Checkpoint | None = None,
) -> tuple[nn.Module, float]:
    """Train a fresh network on the generator's device; returns it in eval mode, and the seconds that it took.

    The same seed and machine give the same weights, however often the training was killed on its way; the seconds of
    whole epochs before a kill are counted.
    Raises ValueError when the network is unknown or not defined for the data set's images, or the checkpoint cannot
    be gone on from.
    """
    seed = generator.initial_seed()
    network = fresh_network(network_name, train, seed).to(generator.device)
    optimiser = torch.optim.Adam(parameter_groups(network, recipe.l2), lr=recipe.learning_rate, fused=True)
    state = TrainingState(network.train(), optimiser, generator)
    # Dropout draws from torch's global generator: seed it, then leave it as it was.
    with _cpu_threads(recipe.threads), torch.random.fork_rng():
        torch.manual_seed(seed)
        if checkpoint is not None:
            checkpoint.restore(state)
        _fit(state, train, recipe, progress, checkpoint)
    return network.eval(), state.seconds


def _fit(
    state: TrainingState, train: Dataset, recipe: Recipe, progress: Progress | None, checkpoint: Checkpoint | None
) -> None:
    network, optimiser, generator, device = state.network, state.optimiser, state.generator, state.generator.device
    # A split that is small enough lives on the device as uint8; batches are cut and scaled there.
    images_nhwc = torch.from_numpy(np.require(train.images_nhwc, requirements="W"))  # read-only where it was read so
    if train.images_nhwc.nbytes <= DEVICE_BYTES_MAX:
        images_nhwc = images_nhwc.to(device)
    truth_n = torch.tensor(train.truth_n, device=device)
    prepare = Preprocessing(input_of(train), device)
    steps_per_epoch = len(_batches(truth_n, recipe))
    steps_in_all = recipe.epochs * steps_per_epoch
    step, loss_since, losses_since = state.epoch * steps_per_epoch, torch.zeros((), device=device), 0
    started, saved = time.monotonic() - state.seconds, time.monotonic()

    while state.epoch < recipe.epochs:
        order = torch.randperm(len(truth_n), generator=generator, device=device)
        for rows in _batches(order, recipe):
            for group in optimiser.param_groups:
                group["lr"] = recipe.learning_rate_at(step, steps_in_all)
            images_nchw = prepare(varied_batch(images_nhwc, rows, recipe, generator).to(device))
            with torch.autocast(device.type, torch.bfloat16, enabled=recipe.precision == "bfloat16"):
                logits_nk = network(images_nchw)
            loss = F.cross_entropy(logits_nk.float(), truth_n[rows])
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()

            step, loss_since, losses_since = step + 1, loss_since + loss.detach(), losses_since + 1
            if progress and (step % STEPS_PER_PROGRESS == 0 or step == steps_in_all):
                progress(step, steps_in_all, float(loss_since) / losses_since)
                loss_since, losses_since = torch.zeros_like(loss_since), 0
        state.epoch, state.seconds = state.epoch + 1, time.monotonic() - started
        finished = state.epoch == recipe.epochs
        if checkpoint is not None and (finished or time.monotonic() - saved >= SECONDS_PER_CHECKPOINT):
            checkpoint.save(state)
            saved = time.monotonic()


def _batches(order: torch.Tensor, recipe: Recipe) -> list[torch.Tensor]:
    """An epoch's rows, batch by batch; a last batch of one image is left out, no batch statistics come of one."""
    batches = list(torch.split(order, recipe.batch_size))
    return batches[:-1] if len(batches) > 1 and len(batches[-1]) == 1 else batches


@contextmanager
def _cpu_threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def measure_accuracy(network: nn.Module, test: Dataset, device: torch.device) -> float:
    """The fraction of test images whose most probable class is the true one."""
    prepare = Preprocessing(input_of(test), device)
    right = 0
    with torch.inference_mode():
        for start in range(0, len(test.truth_n), ROWS_PER_MEASUREMENT):
            rows = slice(start, start + ROWS_PER_MEASUREMENT)
            logits_nk = network(prepare(torch.tensor(test.images_nhwc[rows], device=device)))
            right += int((logits_nk.argmax(1).cpu() == torch.tensor(test.truth_n[rows])).sum())
    return right / len(test.truth_n)


def fresh_network(name: str, train: Dataset, seed: int) -> nn.Module:
    """The network that is trained on such images, with the seed's weights. Raises ValueError as ``train_teacher``."""
    _, height, width, channels = train.images_nhwc.shape
    with torch.random.fork_rng():  # initial weights come from the global generator: seed it, then leave it as it was
        torch.manual_seed(seed)
        return create_network(name, height=height, width=width, channels=channels, classes=len(train.class_names))
