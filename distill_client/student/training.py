"""The one training loop: every contender, ours and the baselines, learns here and differs only in its lessons."""

import math
import time
from collections.abc import Callable

import numpy as np
import torch
from torch import nn

from distill_client.config import TrainingConfig
from distill_client.errors import ConfigError
from distill_client.student.augmentation import augment
from distill_client.student.checkpoint import (
    Checkpoint,
    TrainingState,
    fingerprint,
    follow_first_rank,
    restore_checkpoint,
    save_checkpoint,
)
from distill_client.student.kept_memory import freed_memory_is_kept
from distill_client.student.lessons import LessonImages, Lessons
from distill_client.student.losses import Targets
from distill_client.student.optimiser import optimiser_for
from distill_client.student.precision import computes_in_bfloat16
from distill_client.student.ranks import Ranks
from distill_client.student.stacking import networks_in

# A run reports, and adds a row to its metrics, this many times. Reading the loss makes a GPU wait, so not every step.
_REPORTS = 200

# Of 200 epochs: from which on, and the factor of the learning rate.
_STEPS = ((181, 0.5e-3), (161, 1e-3), (121, 1e-2), (81, 1e-1))


def total_steps(config: TrainingConfig, images: int) -> int:
    """Steps that the schedule takes; an epoch is as many whole batches as the images fill, and at least one."""
    return config.steps or (config.epochs or 0) * max(1, images // config.batch_size)


def learning_rate_at(config: TrainingConfig, step: int, total: int) -> float:
    """Rise linearly over the warm-up, then stay, or fall to zero along a half cosine; ``step`` counts from 0.

    "steps" is Keras' CIFAR example, which FS-BBT's CIFAR-100 student trains by: its 200 epochs are slower after the
    81st, 121st, 161st and 181st, and a training of another length at the same fractions of its own.
    """
    if step < config.warmup_steps:
        return config.learning_rate * (step + 1) / config.warmup_steps
    if config.decay == "constant":
        return config.learning_rate
    progress = (step - config.warmup_steps) / max(1, total - config.warmup_steps)
    if config.decay == "steps":
        return config.learning_rate * next((by for after, by in _STEPS if progress >= after / 200), 1.0)
    return config.learning_rate * 0.5 * (1 + math.cos(math.pi * progress))


def train_student(
    network: nn.Module,
    lessons: Lessons,
    config: TrainingConfig,
    generator: torch.Generator,
    checkpoint: Checkpoint | None = None,
    progress: Callable[[int, int, float], None] | None = None,
) -> list[dict[str, float]]:
    """Train ``network`` in place, on the device its weights are on, and return the metrics of the whole training.

    The loss is the cross-entropy against the targets (``losses`` has it): the divergence from them, up to a constant.
    A ``Stack`` teaches each of its networks in an order and with variations of its own; their mean loss is told.

    With ``averaging_decay`` the network ends with the averaged weights. With a checkpoint, a training that was killed
    goes on where it was last saved and ends as if it had never stopped. ``progress`` hears (step, total steps, loss);
    a row of metrics is step, loss (the mean since the row before) and learning_rate.

    Where torchrun started several processes (``ranks``), each of them calls this with the same arguments, on a device
    of its own; rank 0 alone reads and writes the checkpoint.

    Raises RunStoreError when the checkpoint is damaged or belongs to another training, OtherDevice when that began on
    another kind of device, ConfigError on divergence and for batches that are too small for the processes.
    """
    # Dropout draws from torch's global generator, on every device: it is lent the seed and put back.
    with torch.random.fork_rng(), freed_memory_is_kept():
        torch.manual_seed(generator.initial_seed())
        kept = checkpoint if Ranks.here().number == 0 else None
        return _train_in_steps(network, lessons, config, generator, kept, progress)


def _train_in_steps(
    network: nn.Module,
    lessons: Lessons,
    config: TrainingConfig,
    generator: torch.Generator,
    checkpoint: Checkpoint | None,
    progress: Callable[[int, int, float], None] | None,
) -> list[dict[str, float]]:
    """The loop of ``train_student``, which see, while torch's generator is the training's own."""
    device, ranks = next(network.parameters()).device, Ranks.here()
    learner: Callable[..., torch.Tensor] = ranks.learner(network.to(memory_format=torch.channels_last).train())
    learner = torch.compile(learner) if config.compile else learner
    optimiser = optimiser_for(network, config)
    images, targets = LessonImages(lessons, device), Targets.of(lessons.targets_nk, device)
    shift_k = torch.tensor(0.0 if lessons.prior_shift_k is None else lessons.prior_shift_k).to(device)
    batch_size, members = min(config.batch_size, len(lessons)), networks_in(network)
    part, weight = ranks.part(batch_size, members), ranks.weight(batch_size)
    total, in_bfloat16 = total_steps(config, len(lessons)), computes_in_bfloat16(config, network, device)
    report_every = max(1, total // _REPORTS)

    weights = {name: tensor for name, tensor in network.state_dict().items() if tensor.is_floating_point()}
    averaged = {name: tensor.clone() for name, tensor in weights.items()} if config.averaging_decay else {}
    state = TrainingState(
        network, optimiser, generator, averaged, torch.empty(0, device=device), torch.zeros((), device=device)
    )
    training = _fingerprint(network, lessons, config, generator) if checkpoint else ""
    restore_checkpoint(checkpoint, state, training)
    follow_first_rank(state, ranks)
    saved_at = time.monotonic()

    while state.step < total:
        position = state.step % (len(lessons) // batch_size)
        if position == 0:
            state.order = _shuffles(len(lessons), members, generator).to(device)
        rows = state.order[position * batch_size : (position + 1) * batch_size].flatten()
        batch, answers = _vary(lessons, images.batch(rows), targets[rows], images.are_real(rows), shift_k, generator)
        learning_rate = learning_rate_at(config, state.step, total)
        for group in optimiser.param_groups:
            group["lr"] = learning_rate

        ranks.reseed(generator.initial_seed(), state.step)
        with torch.autocast(device.type, torch.bfloat16, enabled=in_bfloat16):
            logits_nk = learner(batch[part]).float()
        loss = answers[part].cross_entropy(logits_nk + shift_k) * weight
        optimiser.zero_grad()
        (loss * members).backward()  # type: ignore[no-untyped-call]  # of each network its own loss' gradient
        optimiser.step()
        state.summed_loss += ranks.mean(loss.detach())
        state.step += 1

        # A young average forgets faster, or the random start would weigh on it for 1 / (1 - decay) steps.
        decay = min(config.averaging_decay, state.step / (state.step + 9))
        if averaged:
            torch._foreach_lerp_(list(averaged.values()), list(weights.values()), 1 - decay)

        if state.step % report_every == 0 or state.step == total:
            mean_loss = float(state.summed_loss) / ((state.step - 1) % report_every + 1)
            if not math.isfinite(mean_loss):
                raise ConfigError(f"training.learning_rate is {config.learning_rate}; the training diverged with it")
            state.summed_loss.zero_()
            state.metrics.append({"step": state.step, "loss": mean_loss, "learning_rate": learning_rate})
            if progress is not None:
                progress(state.step, total, mean_loss)
        if checkpoint is not None and (time.monotonic() - saved_at >= checkpoint.every_s or state.step == total):
            save_checkpoint(checkpoint.path, state, training)
            saved_at = time.monotonic()

    network.load_state_dict(averaged, strict=False)
    return state.metrics


def _shuffles(images: int, members: int, generator: torch.Generator) -> torch.Tensor:
    """An order of the images for each network, int64 images x members; flat, interlaced as in a ``Stack``."""
    orders = [torch.randperm(images, generator=generator, device=generator.device) for _ in range(members)]
    return torch.stack(orders, dim=1)


def _vary(
    lessons: Lessons,
    images_nchw: torch.Tensor,
    targets: Targets,
    real_n: torch.Tensor | None,
    shift_k: torch.Tensor,
    generator: torch.Generator,
) -> tuple[torch.Tensor, Targets]:
    """A batch as it is trained on: varied as the lessons say, and then as their ensemble teaches it."""
    images_nchw, targets = augment(lessons.augmentation, lessons.bounds, images_nchw, targets, generator, real_n)
    if lessons.ensemble is not None:
        images_nchw, targets = lessons.ensemble.teach(images_nchw, targets, shift_k, generator)
    return images_nchw, targets


def _fingerprint(network: nn.Module, lessons: Lessons, config: TrainingConfig, generator: torch.Generator) -> str:
    shapes = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    ensemble, shift_k = lessons.ensemble, lessons.prior_shift_k
    return fingerprint(
        config.model_dump_json() + lessons.augmentation + lessons.bounds.model_dump_json() + repr(shapes),
        lessons.image_bytes(),
        np.ascontiguousarray(lessons.targets_nk).tobytes(),
        str(generator.initial_seed()),
        b"" if lessons.real_n is None else lessons.real_n.tobytes(),
        b"" if shift_k is None else shift_k.tobytes(),
        "" if ensemble is None else ensemble.config.model_dump_json(),
        b"" if ensemble is None else ensemble.weights(),
    )
