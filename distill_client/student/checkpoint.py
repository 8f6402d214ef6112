"""A training's state in one safetensors file, so that a killed training goes on as if it had never stopped."""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import nn

from distill_client.durable import write_durably
from distill_client.errors import OtherDevice, RunStoreError
from distill_client.student.optimiser import MuonAndAdam
from distill_client.student.ranks import Ranks
from shared.networks.training_state import restore_training, training_tensors


@dataclass
class TrainingState:
    """Everything that the next step of a training depends on; ``averaged`` is empty where weights are not averaged.

    ``order`` is the current epoch's shuffle (int64), ``summed_loss`` what has gathered since the last metrics row.
    """

    network: nn.Module
    optimiser: torch.optim.Adam | MuonAndAdam
    generator: torch.Generator
    averaged: dict[str, torch.Tensor]
    order: torch.Tensor
    summed_loss: torch.Tensor
    step: int = 0
    metrics: list[dict[str, float]] = field(default_factory=list)


@dataclass(frozen=True)
class Checkpoint:
    """Where a training is saved, and at most how much of it, in seconds, a kill may cost."""

    path: Path
    every_s: float = 15.0


def fingerprint(*parts: bytes | str | Iterable[bytes]) -> str:
    """SHA-256, in hex, by which a checkpoint knows the training that it belongs to; a part may come in pieces."""
    digest = hashlib.sha256()
    for part in parts:
        content = part.encode() if isinstance(part, str) else part
        of_part = hashlib.sha256()
        for piece in [content] if isinstance(content, bytes) else content:
            of_part.update(piece)
        digest.update(of_part.digest())
    return digest.hexdigest()


def save_checkpoint(path: Path, state: TrainingState, training: str) -> None:
    """Write the state so that ``path`` holds the old or the new one whole, whenever the process dies."""
    tensors = _tensors(state)
    drawn_on = state.generator.device.type
    record = json.dumps({"training": training, "device": drawn_on, "step": state.step, "metrics": state.metrics})
    content = save({name: tensor.contiguous() for name, tensor in tensors.items()}, metadata={"record": record})

    path.parent.mkdir(parents=True, exist_ok=True)
    write_durably(path, content)


def restore_checkpoint(checkpoint: Checkpoint | None, state: TrainingState, training: str) -> None:
    """Bring a fresh ``state`` to the saved one; where there is no checkpoint, or no file yet, it stays fresh.

    Raises RunStoreError when the file is damaged or was written by another training, OtherDevice when on another
    kind of device.
    """
    if checkpoint is None or not checkpoint.path.exists():
        return
    path = checkpoint.path
    try:
        with safe_open(path, framework="pt") as file:
            record = json.loads((file.metadata() or {})["record"])
            saved = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - the file is no mapping
        # Said first: what was trained before it, its ensemble, would be trained anew here and be another.
        if record["device"] != (here := state.generator.device.type):
            raise OtherDevice(path, saved_on=record["device"], here=here)
        if record["training"] != training:
            raise RunStoreError(
                f"{path}: the checkpoint of another training (other images, answers, schedule, network or seed); "
                "remove it to start this training afresh"
            )
        _restore_tensors(state, saved)
        state.step, state.metrics = int(record["step"]), list(record["metrics"])
    except (SafetensorError, OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
        raise RunStoreError(f"{path}: the checkpoint is damaged ({error}); remove it to train afresh") from error


def follow_first_rank(state: TrainingState, ranks: Ranks) -> None:
    """Bring the state of every rank to that of rank 0, which may have read a checkpoint."""
    state.step, state.metrics = ranks.told((state.step, state.metrics))
    if ranks.count == 1 or state.step == 0:  # before the first step all are equal, and there are no moments yet
        return
    own = {name: tensor.cpu() for name, tensor in _tensors(state).items()} if ranks.number == 0 else None
    _restore_tensors(state, ranks.told(own))


def _tensors(state: TrainingState) -> dict[str, torch.Tensor]:
    tensors = training_tensors(state.network, state.optimiser, state.generator)
    tensors |= {f"averaged.{name}": tensor for name, tensor in state.averaged.items()}
    return tensors | {"order": state.order, "summed_loss": state.summed_loss}


def _restore_tensors(state: TrainingState, saved: dict[str, torch.Tensor]) -> None:
    restore_training(state.network, state.optimiser, state.generator, saved)
    with torch.no_grad():
        for name, tensor in state.averaged.items():
            tensor.copy_(saved[f"averaged.{name}"])
        state.summed_loss.copy_(saved["summed_loss"])
    state.order = saved["order"].to(state.order.device)
