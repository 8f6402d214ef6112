"""Which precision a student is trained in, and what is told of it."""

import pytest
import torch
from torch import nn

from distill_client.config import TrainingConfig
from distill_client.student.precision import computes_in_bfloat16, describe_precision
from distill_client.student.stacking import Stack
from shared.networks import create_network

CPU = torch.device("cpu")
NETWORK = nn.Sequential(nn.Conv2d(8, 8, 3), nn.Flatten(), nn.Linear(8, 10))
DEPTHWISE = nn.Sequential(nn.Conv2d(8, 8, 3, groups=8), nn.Flatten(), nn.Linear(8, 10))


@pytest.mark.parametrize(
    ("asked", "capable", "network", "told"),
    [
        ("float32", True, NETWORK, ""),
        ("float32", False, NETWORK, ""),
        ("bfloat16", True, NETWORK, "; computed in bfloat16"),
        ("bfloat16", False, NETWORK, "; computed in float32, for this cpu has no units that multiply bfloat16"),
        (
            "bfloat16",
            True,
            DEPTHWISE,
            "; computed in float32, for bfloat16 is slower on a cpu where convolutions are depthwise",
        ),
    ],
)
def test_it_is_bfloat16_where_asked_for_and_faster(
    asked: str, capable: bool, network: nn.Module, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"amx_bf16": capable})
    config = TrainingConfig.model_validate({"steps": 1, "precision": asked})
    assert computes_in_bfloat16(config, network, CPU) == (told == "; computed in bfloat16")
    assert describe_precision(config, network, CPU) == told


def test_grey_networks_side_by_side_are_no_depthwise_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three that look at one channel each are three groups of one channel."""
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"amx_bf16": True})
    lenets = [create_network("lenet5", height=28, width=28, channels=1, classes=10) for _ in range(3)]
    config = TrainingConfig(steps=1, precision="bfloat16")
    assert computes_in_bfloat16(config, Stack(lenets), CPU)
    assert computes_in_bfloat16(config, lenets[0], CPU)
