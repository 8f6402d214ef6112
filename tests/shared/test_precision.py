"""Where bfloat16 makes a network's training faster."""

import pytest
import torch
from torch import nn

from shared.networks import create_network
from shared.networks.precision import multiplies_bfloat16, why_not_bfloat16

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


@pytest.mark.parametrize("capable", [True, False])
def test_a_processor_needs_amx(capable: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True, "amx_bf16": capable})
    assert multiplies_bfloat16(CPU) == capable
    network = create_network("alexnet-half", height=32, width=32, channels=3, classes=10)
    assert why_not_bfloat16(network, CPU) == ("" if capable else "this cpu has no units that multiply bfloat16")


def test_another_kind_of_processor_has_none_that_are_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"architecture": "aarch64", "neon": True})
    assert not multiplies_bfloat16(CPU)


@pytest.mark.parametrize("capable", [True, False])
def test_a_gpu_is_asked_for_what_it_does_itself(capable: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """torch calls bfloat16 supported where it is emulated, too."""
    monkeypatch.setattr(
        torch.cuda, "is_bf16_supported", lambda including_emulation=True: capable or including_emulation
    )
    assert multiplies_bfloat16(CUDA) == capable


def test_depthwise_convolutions_are_slower_on_a_processor_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"amx_bf16": True})
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: True)
    depthwise, grouped = nn.Conv2d(8, 8, 3, groups=8), nn.Conv2d(8, 8, 3, groups=4)
    assert why_not_bfloat16(depthwise, CPU) == "bfloat16 is slower on a cpu where convolutions are depthwise"
    assert why_not_bfloat16(depthwise, CUDA) == ""
    assert why_not_bfloat16(grouped, CPU) == "", "groups of two channels are products of matrices"
