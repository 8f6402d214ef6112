"""In which precision a network is trained: bfloat16 is asked for because it is faster, and is so in few places."""

import torch
from torch import nn

from distill_client.config import TrainingConfig


def multiplies_bfloat16(device: torch.device) -> bool:
    """Whether it has units that multiply matrices of bfloat16: an NVIDIA GPU since Ampere, a processor with AMX.

    What has none converts and computes in float32, or element by element: up to twelve times slower than float32
    (docs/client.md, "How fast it trains").
    """
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return bool(torch.cpu.get_capabilities().get("amx_bf16", False))


def computes_in_bfloat16(config: TrainingConfig, network: nn.Module, device: torch.device) -> bool:
    """Whether the network is computed so: where it is asked for and makes the network faster on the device."""
    return config.precision == "bfloat16" and not _why_float32(network, device)


def describe_precision(config: TrainingConfig, network: nn.Module, device: torch.device) -> str:
    """What is to be told beside how a student learns; empty where nothing but float32 was asked for."""
    if config.precision == "float32":
        return ""
    why_float32 = _why_float32(network, device)
    return f"; computed in float32, for {why_float32}" if why_float32 else "; computed in bfloat16"


def _why_float32(network: nn.Module, device: torch.device) -> str:
    """What speaks against bfloat16, or nothing."""
    if not multiplies_bfloat16(device):
        return f"this {device.type} has no units that multiply bfloat16"
    # Each filter sees one channel, which is no product of matrices. oneDNN's gradient of it in bfloat16 is so slow
    # that a step of MobileNetV3-small takes three times as long; with float32 there alone, it gains nothing either.
    if device.type == "cpu" and any(isinstance(layer, nn.Conv2d) and layer.groups > 1 for layer in network.modules()):
        return "bfloat16 is slower on a cpu where convolutions are in groups"
    return ""
