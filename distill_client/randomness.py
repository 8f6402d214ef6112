"""Explicit randomness: every draw takes a generator made from the run's seed and the stage's name."""

import hashlib
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch


def _stage_seed(seed: int, stage: str) -> int:
    return int.from_bytes(hashlib.sha256(f"{seed}:{stage}".encode()).digest()[:8], "little") >> 1


def numpy_generator(seed: int, stage: str) -> np.random.Generator:
    """The NumPy generator of one stage of a run."""
    return np.random.default_rng(_stage_seed(seed, stage))


def torch_generator(seed: int, stage: str, device: "torch.device | str" = "cpu") -> "torch.Generator":
    """The torch generator of one stage of a run."""
    import torch  # two seconds that a plan or an audit need not wait

    return torch.Generator(device=device).manual_seed(_stage_seed(seed, stage))
