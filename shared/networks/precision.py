"""Where bfloat16 makes a network's training faster: on few devices, and not every network."""

import torch
from torch import nn


def multiplies_bfloat16(device: torch.device) -> bool:
    """Whether it has units that multiply matrices of bfloat16: an NVIDIA GPU since Ampere, a processor with AMX.

    What has none converts and computes in float32, or element by element: up to twelve times slower than float32
    (docs/client.md, "How fast it trains").
    """
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return bool(torch.cpu.get_capabilities().get("amx_bf16", False))


def why_not_bfloat16(network: nn.Module, device: torch.device) -> str:
    """What makes it slower than float32 for the network there, as a clause; empty where it is faster."""
    if not multiplies_bfloat16(device):
        return f"this {device.type} has no units that multiply bfloat16"
    # Each filter sees one channel, which is no product of matrices. oneDNN's gradient of it in bfloat16 is so slow
    # that a step of MobileNetV3-small takes three times as long; with float32 there alone, it gains nothing either.
    if device.type == "cpu" and any(isinstance(layer, nn.Conv2d) and layer.groups > 1 for layer in network.modules()):
        return "bfloat16 is slower on a cpu where convolutions are in groups"
    return ""
