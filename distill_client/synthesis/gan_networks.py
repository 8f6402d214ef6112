"""The two networks of a WGAN-GP, in the shape that DivBFKD has them (section 3.1 and the released code).

One difference from it: no normalisation in the critic. The gradient penalty is of each image by itself, and batch
normalisation would make every image's gradient one of the whole batch's (WGAN-GP's paper, section 4).
"""

import itertools
import math

import torch
from torch import nn

from distill_client.config import GanConfig

# The generator's first map is halved from the image's until its shorter side is at most this: 7x7 for 28x28 images,
# 8x8 for 32x32 and 64x64.
_SMALLEST_SIDE = 8
_NARROWEST = 8


class Gan(nn.Module):
    """A ``generator`` of z, N x latent, to images_nchw in [0, 1], and a ``critic`` of images_nchw to N x 1 scores."""

    def __init__(self, config: GanConfig, image_chw: tuple[int, int, int]) -> None:
        super().__init__()
        self.image_chw, self.latent = image_chw, config.latent
        channels, height, width = image_chw
        stages = max(0, math.ceil(math.log2(min(height, width) / _SMALLEST_SIDE)))
        sizes = [(height >> stage, width >> stage) for stage in range(stages, -1, -1)]  # a stage rounds down
        widths = [max(_NARROWEST, config.width >> stage) for stage in range(stages)]
        first = (config.width, *sizes[0])
        ups = zip(itertools.pairwise([config.width, *widths]), sizes[1:], strict=True)
        self.generator = nn.Sequential(
            nn.Linear(config.latent, math.prod(first)),
            nn.Unflatten(1, first),
            nn.BatchNorm2d(config.width),
            *(layer for (a, b), size in ups for layer in _enlarging(a, b, size)),
            nn.Conv2d(widths[-1] if widths else config.width, channels, 3, padding=1),
            nn.Sigmoid(),
        )
        downs = list(itertools.pairwise([channels, *widths[::-1]]))
        last = (downs[-1][1] if downs else channels) * math.prod(sizes[0])
        self.critic = nn.Sequential(
            *(layer for a, b in downs for layer in (nn.Conv2d(a, b, 4, 2, 1), nn.LeakyReLU(0.2))),
            nn.Flatten(),
            nn.Linear(last, 1),
        )


def _enlarging(inputs: int, outputs: int, size: tuple[int, int]) -> tuple[nn.Module, ...]:
    """Each pixel becomes four, or a few more where the halving of an odd side has dropped a row or column."""
    return (
        nn.Upsample(size=size, mode="nearest"),
        nn.Conv2d(inputs, outputs, 3, padding=1, bias=False),
        nn.BatchNorm2d(outputs),
        nn.LeakyReLU(0.2),
    )


def create_gan(config: GanConfig, *, image_hwc: tuple[int, ...], rng: torch.Generator) -> Gan:
    """Build both networks on the CPU, their weights as torch draws them; equal ``rng`` give equal weights."""
    height, width, channels = image_hwc
    seed = int(torch.randint(2**62, (), generator=rng, device=rng.device))
    # torch's layers draw from its global CPU generator; it is lent the seed and put back.
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        return Gan(config, (channels, height, width)).to(memory_format=torch.channels_last)
