"""Training the conditional variational auto-encoder of FS-BBT (section 3.2) on the pool, and drawing from it.

It conditions on the teacher's own top class of each pool image, bought already with the pool's answers.
"""

import math
from collections.abc import Iterator

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from distill_client.config import CvaeConfig
from distill_client.errors import ConfigError
from distill_client.synthesis.cvae_networks import Cvae
from distill_client.synthesis.epochs import UNSAVED, Epochs, GenerativeTraining
from distill_client.synthesis.quantise import quantise

# Bounds the float32 copies of one batch of generated images: 256 images of 28x28x1 down to 111 of 224x224x3.
_BATCH_GENERATED = 256
_BATCH_BYTES = 1 << 24
# A training batch of more values goes through the network in parts, its gradient being their sum: 256 images of
# 64x64x3 are one part, of 224x224x3 ten.
_PART_VALUES = 1 << 22


def train_cvae(
    cvae: Cvae,
    config: CvaeConfig,
    pool_nhwc: NDArray[np.uint8],
    classes_n: NDArray[np.int64],
    generator: torch.Generator,
    epochs: Epochs = UNSAVED,
) -> None:
    """Train in place, on the device the weights are on, all pool images under the teacher's top class of each.

    The loss is the published one, per image: the sum over pixels of the binary cross-entropy plus the divergence of
    the latent from N(0, I). The released code sets 5 % of the pool aside and only prints their loss; here they train
    too. A training that was killed goes on after the last of its ``epochs`` that was saved, and ends as if it had
    never stopped. Raises ConfigError when the training diverges, RunStoreError when what was saved is damaged.
    """
    device = next(cvae.parameters()).device
    condition = _one_hot(classes_n, cvae.classes).to(device)
    part_images = max(1, _PART_VALUES // math.prod(cvae.image_chw))
    optimiser = torch.optim.Adam(cvae.parameters(), lr=config.learning_rate, fused=True)
    cvae.train()
    for epoch in epochs.of(GenerativeTraining(cvae, (optimiser,), generator), config.epochs):
        order = torch.randperm(len(pool_nhwc), generator=generator, device=generator.device).to(device)
        noise = torch.randn(len(pool_nhwc), config.latent, generator=generator, device=generator.device).to(device)
        summed_loss = torch.zeros((), device=device)
        for rows in torch.split(order, config.batch_size):
            optimiser.zero_grad()
            for part in torch.split(rows, part_images):
                # Only a part is ever in floats; the pool stays as it is, in memory or mapped from a file.
                images = torch.from_numpy(np.ascontiguousarray(pool_nhwc[part.cpu().numpy()])).to(device)
                images_nchw = images.permute(0, 3, 1, 2).float().div_(255).contiguous()
                loss = _summed_loss(cvae, images_nchw, condition[part], noise[part]) / len(rows)
                loss.backward()  # type: ignore[no-untyped-call]
                summed_loss += loss.detach()
            optimiser.step()
        if not summed_loss.isfinite():
            raise ConfigError(
                f"synthesis.cvae.learning_rate is {config.learning_rate}; the training diverged in epoch {epoch}, "
                "so it must be smaller"
            )


def _summed_loss(
    cvae: Cvae, images_nchw: torch.Tensor, condition_nk: torch.Tensor, noise_nd: torch.Tensor
) -> torch.Tensor:
    mean, log_variance = cvae.encode(images_nchw, condition_nk)
    z = mean + torch.exp(log_variance / 2) * noise_nd
    pixels = F.binary_cross_entropy_with_logits(cvae.decode(z, condition_nk), images_nchw, reduction="sum")
    divergence = -0.5 * torch.sum(1 + log_variance - mean.square() - log_variance.exp())
    return pixels + divergence


def generate(cvae: Cvae, z_nd: NDArray[np.float32], classes_n: NDArray[np.int64]) -> Iterator[NDArray[np.uint8]]:
    """Decode each z under its class condition, on the device the weights are on: uint8 images_nhwc in batches."""
    cvae.eval()
    device = next(cvae.parameters()).device
    channels, height, width = cvae.image_chw
    batch = min(_BATCH_GENERATED, max(1, _BATCH_BYTES // (channels * height * width)))
    for start in range(0, len(z_nd), batch):
        rows = slice(start, start + batch)
        with torch.inference_mode():
            condition = _one_hot(classes_n[rows], cvae.classes).to(device)
            pixels = torch.sigmoid(cvae.decode(torch.tensor(z_nd[rows]).to(device), condition))
            levels_nhwc = pixels.permute(0, 2, 3, 1).cpu().numpy() * np.float32(255)
        yield quantise(levels_nhwc)


def _one_hot(classes_n: NDArray[np.int64], classes: int) -> torch.Tensor:
    return F.one_hot(torch.tensor(classes_n), classes).float()
