"""The conditional variational auto-encoders of FS-BBT (section 3.2 and the released code), and their training.

Both condition on the teacher's own top class of each pool image, bought already with the pool's answers.
"""

import itertools
import math
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import nn

from distill_client.config import CvaeConfig
from distill_client.errors import ConfigError
from distill_client.synthesis.quantise import quantise

_BATCH_GENERATED = 256


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


class ConvCvae(nn.Module):
    """32x32: the condition enters the encoder as a further image plane; every convolution is k4 s2 'same'."""

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


Cvae = MlpCvae | ConvCvae


def create_cvae(config: CvaeConfig, *, image_hwc: tuple[int, ...], classes: int, generator: torch.Generator) -> Cvae:
    """Build the configured CVAE on the CPU with fresh weights, as Keras draws them: Glorot uniform, zero biases.

    ``generator`` is a CPU one. Raises ConfigError when the network is not defined for that image size.
    """
    *size, channels = image_hwc
    network, wanted = (MlpCvae, [28, 28]) if config.network == "mlp" else (ConvCvae, [32, 32])
    if size != wanted:
        raise ConfigError(
            f"synthesis.cvae.network is {config.network!r}, which makes {wanted[0]}x{wanted[1]} images; "
            f"the pool's are {size[0]}x{size[1]}. Allowed are 'mlp' for 28x28 and 'conv' for 32x32"
        )
    cvae = network(channels, classes, config.latent)
    for name, parameter in cvae.named_parameters():
        if name.endswith("weight"):
            nn.init.xavier_uniform_(parameter, generator=generator)
        else:
            nn.init.zeros_(parameter)
    return cvae


def train_cvae(
    cvae: Cvae,
    config: CvaeConfig,
    pool_nhwc: NDArray[np.uint8],
    classes_n: NDArray[np.int64],
    generator: torch.Generator,
    progress: Callable[[int], None] | None = None,
) -> None:
    """Train in place, on the device the weights are on, all pool images under the teacher's top class of each.

    The loss is the published one, per image: the sum over pixels of the binary cross-entropy plus the divergence of
    the latent from N(0, I). The released code sets 5 % of the pool aside and only prints their loss; here they train
    too. ``progress`` hears of every finished epoch, from 1. Raises ConfigError when the training diverges.
    """
    device = next(cvae.parameters()).device
    images = torch.tensor(pool_nhwc).to(device).permute(0, 3, 1, 2).float().div_(255).contiguous()
    condition = _one_hot(classes_n, cvae.classes).to(device)
    optimiser = torch.optim.Adam(cvae.parameters(), lr=config.learning_rate, fused=True)
    cvae.train()
    for epoch in range(1, config.epochs + 1):
        order = torch.randperm(len(images), generator=generator, device=generator.device).to(device)
        noise = torch.randn(len(images), config.latent, generator=generator, device=generator.device).to(device)
        summed_loss = torch.zeros((), device=device)
        for rows in torch.split(order, config.batch_size):
            mean, log_variance = cvae.encode(images[rows], condition[rows])
            z = mean + torch.exp(log_variance / 2) * noise[rows]
            pixels = F.binary_cross_entropy_with_logits(
                cvae.decode(z, condition[rows]), images[rows], reduction="sum"
            )
            divergence = -0.5 * torch.sum(1 + log_variance - mean.square() - log_variance.exp())
            loss = (pixels + divergence) / len(rows)
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            summed_loss += loss.detach()
        if not summed_loss.isfinite():
            raise ConfigError(
                f"synthesis.cvae.learning_rate is {config.learning_rate}; the training diverged in epoch {epoch}, "
                "so it must be smaller"
            )
        if progress is not None:
            progress(epoch)


@torch.inference_mode()
def generate(cvae: Cvae, z_nd: NDArray[np.float32], classes_n: NDArray[np.int64]) -> NDArray[np.uint8]:
    """Decode each z under its class condition into uint8 images_nhwc, on the device the weights are on."""
    cvae.eval()
    device = next(cvae.parameters()).device
    channels, height, width = cvae.image_chw
    images_nhwc = np.empty((len(z_nd), height, width, channels), dtype=np.uint8)
    for start in range(0, len(z_nd), _BATCH_GENERATED):
        rows = slice(start, start + _BATCH_GENERATED)
        condition = _one_hot(classes_n[rows], cvae.classes).to(device)
        pixels = torch.sigmoid(cvae.decode(torch.tensor(z_nd[rows]).to(device), condition))
        images_nhwc[rows] = quantise(pixels.permute(0, 2, 3, 1).cpu().numpy() * np.float32(255))
    return images_nhwc


def _one_hot(classes_n: NDArray[np.int64], classes: int) -> torch.Tensor:
    return F.one_hot(torch.tensor(classes_n), classes).float()
