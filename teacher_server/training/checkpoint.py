"""An unfinished training in one safetensors file beside the bundle to be, so that a killed one goes on."""

import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import nn


@dataclass
class TrainingState:
    """All that the next epoch depends on: torch's own generator is in it because dropout draws from nothing else."""

    network: nn.Module
    optimiser: torch.optim.Adam
    generator: torch.Generator
    epoch: int = 0
    seconds: float = 0.0


@dataclass(frozen=True)
class Checkpoint:
    """Where a training is kept between epochs, and the fingerprint by which the file knows which one it is."""

    path: Path
    training: str

    @classmethod
    def beside(cls, folder: Path, *parts: str) -> "Checkpoint":
        """The checkpoint of the bundle that ``folder`` will be; ``parts`` are all that the training depends on."""
        training = hashlib.sha256("\0".join(parts).encode()).hexdigest()
        return cls(folder.with_name(f"{folder.name}.unfinished.safetensors"), training)

    @property
    def _draft(self) -> Path:
        return self.path.with_name(f"{self.path.name}.new")

    def save(self, state: TrainingState) -> None:
        """Write the state so that the file holds the old or the new one whole, whenever the process dies."""
        tensors = {f"network.{name}": tensor for name, tensor in state.network.state_dict().items()}
        for index, parameter in enumerate(state.network.parameters()):
            for name, tensor in state.optimiser.state[parameter].items():
                tensors[f"optimiser.{index}.{name}"] = tensor
        tensors |= {"generator": state.generator.get_state(), "torch": torch.get_rng_state()}
        if state.generator.device.type == "cuda":
            tensors["cuda"] = torch.cuda.get_rng_state(state.generator.device)
        record = json.dumps({"training": self.training, "epoch": state.epoch, "seconds": state.seconds})
        content = save({name: tensor.cpu().contiguous() for name, tensor in tensors.items()}, {"record": record})
        with self._draft.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        self._draft.replace(self.path)

    def restore(self, state: TrainingState) -> None:
        """Bring a fresh ``state`` to the saved one; without a file it stays fresh.

        Raises ValueError when the file is damaged or belongs to another training.
        """
        if not self.path.exists():
            return
        try:
            with safe_open(self.path, framework="pt") as file:
                record = json.loads((file.metadata() or {})["record"])
                saved = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - the file is no mapping
            if record["training"] != self.training:
                raise ValueError("it is another training's: other data, network, recipe, seed or torch threads")
            _restore_tensors(state, saved)
            state.epoch, state.seconds = int(record["epoch"]), float(record["seconds"])
        except (SafetensorError, OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
            raise ValueError(
                f"{self.path}: cannot go on from this checkpoint ({error}); remove it to start afresh"
            ) from (error)

    def remove(self) -> None:
        """Take the file away, once the bundle is written."""
        self.path.unlink(missing_ok=True)
        self._draft.unlink(missing_ok=True)  # of a save that was killed


def _restore_tensors(state: TrainingState, saved: dict[str, torch.Tensor]) -> None:
    """Copy into tensors that have the live ones' device and memory layout: the fused optimiser relies on both."""
    with torch.no_grad():
        for name, tensor in state.network.state_dict().items():
            tensor.copy_(saved[f"network.{name}"])
        for index, parameter in enumerate(state.network.parameters()):
            state.optimiser.state[parameter] = {
                "step": saved[f"optimiser.{index}.step"].to(parameter.device),
                "exp_avg": torch.empty_like(parameter).copy_(saved[f"optimiser.{index}.exp_avg"]),
                "exp_avg_sq": torch.empty_like(parameter).copy_(saved[f"optimiser.{index}.exp_avg_sq"]),
            }
    state.generator.set_state(saved["generator"])
    torch.set_rng_state(saved["torch"])
    if "cuda" in saved and state.generator.device.type == "cuda":
        torch.cuda.set_rng_state(saved["cuda"], state.generator.device)
