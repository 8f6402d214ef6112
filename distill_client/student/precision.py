"""In which precision a student is trained: bfloat16 is asked for because it is faster, and taken where it is."""

import torch
from torch import nn

from distill_client.config import TrainingConfig
from distill_client.student.stacking import networks_in
from shared.networks.precision import why_not_bfloat16


def computes_in_bfloat16(config: TrainingConfig, network: nn.Module, device: torch.device) -> bool:
    """Whether the network is computed so: where it is asked for and makes the network faster on the device."""
    return config.precision == "bfloat16" and not why_not_bfloat16(network, device, members=networks_in(network))


def describe_precision(config: TrainingConfig, network: nn.Module, device: torch.device) -> str:
    """What is to be told beside how a student learns; empty where nothing but float32 was asked for."""
    if config.precision == "float32":
        return ""
    why_not = why_not_bfloat16(network, device)
    return f"; computed in float32, for {why_not}" if why_not else "; computed in bfloat16"
