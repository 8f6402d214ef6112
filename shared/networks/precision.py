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


def why_not_bfloat16(network: nn.Module, device: torch.device, *, members: int = 1) -> str:
    """What makes it slower than float32 for the network there, as a clause; empty where it is faster.

    ``members`` networks may be in it side by side, each with groups of its own.
    """
    if not multiplies_bfloat16(device):
        return f"this {device.type} has no units that multiply bfloat16"
    # A depthwise filter sees one channel, which is no product of matrices. oneDNN's gradient of it in bfloat16 takes
    # up to 28 times as long, a step of MobileNetV3-small three times; float32 there alone makes it no faster than
    # float32 throughout. Groups of several channels gain as whole convolutions do.
    convolutions = [layer for layer in network.modules() if isinstance(layer, nn.Conv2d)]
    if device.type == "cpu" and any(layer.groups == layer.in_channels > members for layer in convolutions):
        return "bfloat16 is slower on a cpu where convolutions are depthwise"
    return ""
