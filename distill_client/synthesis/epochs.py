"""The epochs of a generative network's training: told of, and saved, so that a kill costs the last few alone."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import nn

from distill_client.durable import write_durably
from distill_client.errors import OtherDevice, RunStoreError


@dataclass(frozen=True)
class GenerativeTraining:
    """Everything that the next epoch depends on; nothing in it may draw from torch's global generator."""

    network: nn.Module
    optimisers: tuple[torch.optim.Optimizer, ...]
    rng: torch.Generator


@dataclass(frozen=True)
class Epochs:
    """Who hears of every finished epoch, from 1, and where the training is saved at most once in ``every_s``."""

    progress: Callable[[int], None] | None = None
    checkpoint_path: Path | None = None
    every_s: float = 15.0

    def of(self, training: GenerativeTraining, count: int) -> Iterator[int]:
        """The epochs, by their numbers from 1 to ``count``, that are still to be done.

        One is done when the next is asked for. Raises RunStoreError when the checkpoint is damaged, OtherDevice when
        it was written on another kind of device.
        """
        done = 0
        if self.checkpoint_path is not None and self.checkpoint_path.exists():
            done = _restore(self.checkpoint_path, training)
        saved_at = time.monotonic()
        for epoch in range(done + 1, count + 1):
            yield epoch
            if self.checkpoint_path is not None and time.monotonic() - saved_at >= self.every_s:
                _save(self.checkpoint_path, training, epoch)
                saved_at = time.monotonic()
            if self.progress is not None:
                self.progress(epoch)


# Nobody hears of these, and a kill costs all of them.
UNSAVED = Epochs()


def _save(path: Path, training: GenerativeTraining, epoch: int) -> None:
    """Write the state so that ``path`` holds the old or the new one whole, whenever the process dies."""
    tensors = {f"network.{name}": tensor for name, tensor in training.network.state_dict().items()}
    for number, optimiser in enumerate(training.optimisers):
        for index, state in optimiser.state_dict()["state"].items():
            tensors |= {f"optimiser.{number}.{index}.{name}": tensor for name, tensor in state.items()}
    tensors["rng"] = training.rng.get_state()
    metadata = {"epoch": str(epoch), "device": training.rng.device.type}
    content = save({name: tensor.contiguous() for name, tensor in tensors.items()}, metadata=metadata)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_durably(path, content)


def _restore(path: Path, training: GenerativeTraining) -> int:
    """Bring a fresh training to the saved state; the number of the epoch after which it was saved."""
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            epoch, saved_on = int(metadata["epoch"]), metadata["device"]
            saved = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - the file is no mapping
        if saved_on != (here := training.rng.device.type):
            raise OtherDevice(path, saved_on=saved_on, here=here)
        training.network.load_state_dict(_below("network.", saved))
        for number, optimiser in enumerate(training.optimisers):
            _restore_optimiser(optimiser, _below(f"optimiser.{number}.", saved))
        training.rng.set_state(saved["rng"])
    except (SafetensorError, OSError, ValueError, LookupError, TypeError, RuntimeError) as error:
        raise RunStoreError(f"{path}: the checkpoint is damaged ({error}); remove it to train afresh") from error
    return epoch


def _below(prefix: str, saved: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in saved.items() if name.startswith(prefix)}


def _restore_optimiser(optimiser: torch.optim.Optimizer, saved: dict[str, torch.Tensor]) -> None:
    parameters = [parameter for group in optimiser.param_groups for parameter in group["params"]]
    states: dict[int, dict[str, torch.Tensor]] = {index: {} for index in range(len(parameters))}
    for key, tensor in saved.items():
        index, name = key.split(".", 1)
        parameter = parameters[int(index)]
        # Moments have the memory layout of their weights, which the file has not kept.
        is_moment = tensor.shape == parameter.shape
        states[int(index)][name] = torch.empty_like(parameter).copy_(tensor) if is_moment else tensor
    optimiser.load_state_dict({"state": states, "param_groups": optimiser.state_dict()["param_groups"]})
