"""Where bfloat16 is computed in, and what is told of it."""

import pytest
import torch
from torch import nn

from distill_client.config import TrainingConfig
from distill_client.student.precision import computes_in_bfloat16, describe_precision

CPU = torch.device("cpu")
NETWORK = nn.Sequential(nn.Conv2d(8, 8, 3), nn.Flatten(), nn.Linear(8, 10))


@pytest.mark.parametrize("capable", [True, False])
@pytest.mark.parametrize("asked", ["float32", "bfloat16"])
def test_a_processor_computes_in_bfloat16_if_asked_and_able(
    capable: bool, asked: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True, "amx_bf16": capable})
    config = TrainingConfig.model_validate({"steps": 1, "precision": asked})
    assert computes_in_bfloat16(config, NETWORK, CPU) == (capable and asked == "bfloat16")
    told = describe_precision(config, NETWORK, CPU)
    if asked == "float32":
        assert told == ""
    else:
        assert told == (
            "; computed in bfloat16"
            if capable
            else "; computed in float32, for this cpu has no units that multiply bfloat16"
        )


@pytest.mark.parametrize("capable", [True, False])
def test_a_gpu_is_asked_for_what_it_does_itself(capable: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """torch calls bfloat16 supported where it is emulated, too."""
    monkeypatch.setattr(
        torch.cuda, "is_bf16_supported", lambda including_emulation=True: capable or including_emulation
    )
    config = TrainingConfig(steps=1, precision="bfloat16")
    assert computes_in_bfloat16(config, NETWORK, torch.device("cuda")) == capable


def test_another_kind_of_processor_has_none_that_are_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"architecture": "aarch64", "neon": True})
    assert not computes_in_bfloat16(TrainingConfig(steps=1, precision="bfloat16"), NETWORK, CPU)


def test_convolutions_in_groups_are_float32_on_a_processor_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"amx_bf16": True})
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: True)
    config = TrainingConfig(steps=1, precision="bfloat16")
    depthwise = nn.Sequential(nn.Conv2d(8, 8, 3, groups=8), nn.Flatten(), nn.Linear(8, 10))
    assert not computes_in_bfloat16(config, depthwise, CPU)
    told = describe_precision(config, depthwise, CPU)
    assert told == "; computed in float32, for bfloat16 is slower on a cpu where convolutions are in groups"
    assert computes_in_bfloat16(config, depthwise, torch.device("cuda"))
