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

from shared.networks.training_state import restore_training, training_tensors


@dataclass
class TrainingState:
    """All that the next epoch depends on, and the seconds of the epochs so far."""

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
        tensors = training_tensors(state.network, state.optimiser, state.generator)
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
                raise ValueError("it is another training's: other data, network, epochs, precision, seed or threads")
            restore_training(state.network, state.optimiser, state.generator, saved)
            state.epoch, state.seconds = int(record["epoch"]), float(record["seconds"])
        except (SafetensorError, OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
            raise ValueError(
                f"{self.path}: cannot go on from this checkpoint ({error}); remove it to start afresh"
            ) from (error)

    def remove(self) -> None:
        """Take the file away, once the bundle is written."""
        self.path.unlink(missing_ok=True)
        self._draft.unlink(missing_ok=True)  # of a save that was killed
