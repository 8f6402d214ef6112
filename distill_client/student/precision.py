"""In which precision a device trains: bfloat16 is asked for because it is faster, and is so in few places."""

import torch

from distill_client.config import TrainingConfig


def multiplies_bfloat16(device: torch.device) -> bool:
    """Whether it has units that multiply matrices of bfloat16: an NVIDIA GPU since Ampere, a processor with AMX.

    What has none converts and computes in float32, or element by element: up to twelve times slower than float32
    (docs/client.md, "How fast it trains").
    """
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return bool(torch.cpu.get_capabilities().get("amx_bf16", False))


def computes_in_bfloat16(config: TrainingConfig, device: torch.device) -> bool:
    """Whether the network is computed so: where it is asked for and the device has units for it."""
    return config.precision == "bfloat16" and multiplies_bfloat16(device)


def describe_precision(config: TrainingConfig, device: torch.device) -> str:
    """What is to be told beside how a student learns; empty where nothing but float32 was asked for."""
    if config.precision == "float32":
        return ""
    if computes_in_bfloat16(config, device):
        return "; computed in bfloat16"
    return f"; computed in float32, for this {device.type} has no units that multiply bfloat16"
