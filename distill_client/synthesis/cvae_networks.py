"""The conditional variational auto-encoders of FS-BBT (section 3.2 and the released code), and a larger one.

All map images and a one-hot class condition to a latent distribution, and a latent with a condition to pixel logits.
"""

import itertools
import math

import torch
import torch.nn.functional as F
from torch import nn

from distill_client.config import CvaeConfig
from distill_client.errors import ConfigError

_WIDEST = 512
_PLANE_SIDE = 32
_SHORTEST_SIDE = 8


class MlpCvae(nn.Module):
    """28x28: dense 256, 128, 64 to the latent mean and log-variance, and back the same way."""

    def __init__(self, channels: int, classes: int, latent: int) -> None:
        super().__init__()
        self.image_chw, self.classes = (channels, 28, 28), classes
        pixels = math.prod(self.image_chw)
        self.encoder = nn.Sequential(
            *(nn.Linear(pixels + classes, 256), nn.ReLU()),
            *(nn.Linear(256, 128), nn.ReLU()),
            *(nn.Linear(128, 64), nn.ReLU()),
            nn.Linear(64, 2 * latent),
        )
        self.decoder = nn.Sequential(
            *(nn.Linear(latent + classes, 64), nn.ReLU()),
            *(nn.Linear(64, 128), nn.ReLU()),
            *(nn.Linear(128, 256), nn.ReLU()),
            nn.Linear(256, pixels),
        )

    def encode(self, images_nchw: torch.Tensor, condition_nk: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Latent mean and log-variance, each N x latent, of images in [0, 1] under a one-hot condition."""
        code = self.encoder(torch.cat([images_nchw.flatten(1), condition_nk], dim=1))
        mean, log_variance = code.chunk(2, dim=1)
        return mean, log_variance

    def decode(self, z: torch.Tensor, condition_nk: torch.Tensor) -> torch.Tensor:
        """Pixel logits N x C x 28 x 28; their sigmoid is the image."""
        logits: torch.Tensor = self.decoder(torch.cat([z, condition_nk], dim=1))
        return logits.reshape(-1, *self.image_chw)


class PublishedConvCvae(nn.Module):
    """32x32, as published: the condition is a further plane of the encoder's image; all convolutions are k4 s2."""

    def __init__(self, channels: int, classes: int, latent: int) -> None:
        super().__init__()
        self.image_chw, self.classes = (channels, 32, 32), classes
        self.condition_plane = nn.Linear(classes, 32 * 32)
        down = (channels + 1, 32, 64, 128, 256, 512)  # 32x32 down to 1x1
        up = (512, 512, 256, 128, 64, 32, channels)  # 1x1 up to 64x64, as published: larger than the image
        self.encoder = nn.Sequential(
            *(layer for a, b in itertools.pairwise(down) for layer in (nn.Conv2d(a, b, 4, 2, 1), nn.ReLU())),
            nn.Flatten(),
            *(nn.Linear(512, 32), nn.ReLU()),
            *(nn.Linear(32, 16), nn.ReLU()),
            nn.Linear(16, 2 * latent),
        )
        self.decoder = nn.Sequential(
            *(nn.Linear(latent + classes, 16), nn.ReLU()),
            *(nn.Linear(16, 32), nn.ReLU()),
            *(nn.Linear(32, 512), nn.ReLU()),
            nn.Unflatten(1, (512, 1, 1)),
            *(layer for a, b in itertools.pairwise(up) for layer in (nn.ConvTranspose2d(a, b, 4, 2, 1), nn.ReLU())),
            nn.Flatten(),
            nn.Linear(channels * 64 * 64, channels * 32 * 32),
        )

    def encode(self, images_nchw: torch.Tensor, condition_nk: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Latent mean and log-variance, each N x latent, of images in [0, 1] under a one-hot condition."""
        plane = self.condition_plane(condition_nk).unflatten(1, (1, 32, 32))
        code = self.encoder(torch.cat([images_nchw, plane], dim=1))
        mean, log_variance = code.chunk(2, dim=1)
        return mean, log_variance

    def decode(self, z: torch.Tensor, condition_nk: torch.Tensor) -> torch.Tensor:
        """Pixel logits N x C x 32 x 32; their sigmoid is the image."""
        logits: torch.Tensor = self.decoder(torch.cat([z, condition_nk], dim=1))
        return logits.reshape(-1, *self.image_chw)


class ConvCvae(nn.Module):
    """Any size from 8x8: the published one's stages of k4 s2 convolutions, as many as halve the shorter side to one.

    Two things differ from it, so that its size grows with the number of stages and not with that of pixels: the
    decoder ends at the image, without the dense layer over all pixels (91 billion weights at 224x224x3), and the
    condition's plane is at most 32x32, spread over the image.
    """

    def __init__(self, image_chw: tuple[int, int, int], classes: int, latent: int) -> None:
        super().__init__()
        self.image_chw, self.classes = image_chw, classes
        channels, height, width = image_chw
        stages = int(math.log2(min(height, width)))
        widths = [min(_WIDEST, 32 << stage) for stage in range(stages)]
        sizes = [(height >> stage, width >> stage) for stage in range(stages + 1)]  # a stage rounds down
        self.plane_size = (min(height, _PLANE_SIDE), min(width, _PLANE_SIDE))
        self.condition_plane = nn.Linear(classes, math.prod(self.plane_size))
        smallest = (widths[-1], *sizes[-1])
        down = itertools.pairwise([channels + 1, *widths])
        self.encoder = nn.Sequential(
            *(layer for a, b in down for layer in (nn.Conv2d(a, b, 4, 2, 1), nn.ReLU())),
            nn.Flatten(),
            *(nn.Linear(math.prod(smallest), 32), nn.ReLU()),
            *(nn.Linear(32, 16), nn.ReLU()),
            nn.Linear(16, 2 * latent),
        )
        up = zip(itertools.pairwise([*widths[::-1], channels]), itertools.pairwise(sizes[::-1]), strict=True)
        blocks = [layer for (a, b), (small, large) in up for layer in (_doubling(a, b, small, large), nn.ReLU())]
        self.decoder = nn.Sequential(
            *(nn.Linear(latent + classes, 16), nn.ReLU()),
            *(nn.Linear(16, 32), nn.ReLU()),
            *(nn.Linear(32, math.prod(smallest)), nn.ReLU()),
            nn.Unflatten(1, smallest),
            *blocks[:-1],  # logits, so nothing behind the last convolution
        )

    def encode(self, images_nchw: torch.Tensor, condition_nk: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Latent mean and log-variance, each N x latent, of images in [0, 1] under a one-hot condition."""
        plane = self.condition_plane(condition_nk).unflatten(1, (1, *self.plane_size))
        plane = F.interpolate(plane, size=self.image_chw[1:], mode="nearest")
        code = self.encoder(torch.cat([images_nchw, plane], dim=1))
        mean, log_variance = code.chunk(2, dim=1)
        return mean, log_variance

    def decode(self, z: torch.Tensor, condition_nk: torch.Tensor) -> torch.Tensor:
        """Pixel logits N x C x H x W; their sigmoid is the image."""
        logits: torch.Tensor = self.decoder(torch.cat([z, condition_nk], dim=1))
        return logits


def _doubling(inputs: int, outputs: int, small: tuple[int, int], large: tuple[int, int]) -> nn.ConvTranspose2d:
    """A k4 s2 transposed convolution that gives back the row or column that halving an odd side has dropped."""
    dropped = (large[0] - 2 * small[0], large[1] - 2 * small[1])
    return nn.ConvTranspose2d(inputs, outputs, 4, 2, 1, output_padding=dropped)


Cvae = MlpCvae | PublishedConvCvae | ConvCvae


def create_cvae(config: CvaeConfig, *, image_hwc: tuple[int, ...], classes: int, generator: torch.Generator) -> Cvae:
    """Build the configured CVAE on the CPU with fresh weights, as Keras draws them: Glorot uniform, zero biases.

    ``generator`` is a CPU one. Raises ConfigError when the network is not defined for that image size.
    """
    height, width, channels = image_hwc
    kind = config.network if config.network != "auto" else "mlp" if (height, width) == (28, 28) else "conv"
    cvae: Cvae
    if kind == "mlp" and (height, width) == (28, 28):
        cvae = MlpCvae(channels, classes, config.latent)
    elif kind == "conv" and (height, width) == (32, 32):
        cvae = PublishedConvCvae(channels, classes, config.latent)
    elif kind == "conv" and min(height, width) >= _SHORTEST_SIDE:
        cvae = ConvCvae((channels, height, width), classes, config.latent)
    else:
        raise ConfigError(
            f"synthesis.cvae.network is {config.network!r}; the pool's images are {height}x{width}. Allowed are "
            f"'mlp' for 28x28 and 'conv' for every size from {_SHORTEST_SIDE}x{_SHORTEST_SIDE}"
        )
    for name, parameter in cvae.named_parameters():
        if name.endswith("weight"):
            nn.init.xavier_uniform_(parameter, generator=generator)
        else:
            nn.init.zeros_(parameter)
    return cvae
