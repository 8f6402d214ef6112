"""The student's network, with weights drawn from the run's own randomness."""

import torch
from torch import nn

from distill_client.errors import ConfigError
from shared.networks import create_network


def create_student(
    name: str, *, image_hwc: tuple[int, int, int], classes: int, generator: torch.Generator
) -> nn.Module:
    """Build a published architecture on the CPU; equal generators give equal weights.

    Raises ConfigError when the name is unknown or the architecture is not defined for that image size.
    """
    height, width, channels = image_hwc
    seed = int(torch.randint(2**62, (), generator=generator, device=generator.device))
    # The architectures draw from torch's global CPU generator; it is lent the seed and put back.
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        try:
            return create_network(name, height=height, width=width, channels=channels, classes=classes)
        except ValueError as error:
            raise ConfigError(f"student.network: {error}") from error
