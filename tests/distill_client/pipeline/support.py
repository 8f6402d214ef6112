"""What the tests of runs share."""

from pathlib import Path
from typing import Any

import safetensors.torch
import torch

from tests.distill_client.fakes import (
    FakeTeacher,
)

Finished = tuple[Path, FakeTeacher, dict[str, Any]]


def weights_of(path: Path, contender: str = "student") -> dict[str, torch.Tensor]:
    return safetensors.torch.load_file(path / "contenders" / f"{contender}.safetensors")


def equal_weights(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)
