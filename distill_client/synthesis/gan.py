"""A WGAN-GP (Gulrajani et al., 2017), trained on the pool alone: no class, no label, and no query.

DivBFKD (section 3.1) trains the same two networks with the teacher in the loop, which it asks about every batch of
generated images: one to fifty million queries. Its own ablation has nearly all of the gain from the balance of
classes that comes after (``class_balance``), so that is what is kept of it.
"""

import math

import numpy as np
import torch
from numpy.typing import NDArray

from distill_client.config import GanConfig
from distill_client.errors import ConfigError
from distill_client.randomness import numpy_generator
from distill_client.synthesis.epochs import UNSAVED, Epochs, GenerativeTraining
from distill_client.synthesis.gan_networks import Gan
from distill_client.synthesis.quantise import quantise

# Of the float32 pixels of one block of generated images: 1,024 of 28x28x1 or 32x32x1, 27 of 224x224x3.
_BLOCK_IMAGES = 1024
_BLOCK_VALUES = 1 << 22


def train_gan(
    gan: Gan,
    config: GanConfig,
    pool_nhwc: NDArray[np.uint8],
    rng: torch.Generator,
    epochs: Epochs = UNSAVED,
) -> None:
    """Train both networks in place, on the device their weights are on.

    An epoch shows the critic the pool once; the generator learns once in ``critic_steps`` of its steps. A training
    that was killed goes on after the last of its ``epochs`` that was saved, and ends as if it had never stopped.
    Raises ConfigError when the training diverges, RunStoreError when what was saved is damaged.
    """
    device = next(gan.parameters()).device
    gan.train()
    generator_optimiser = torch.optim.RMSprop(gan.generator.parameters(), lr=config.learning_rate)
    critic_optimiser = torch.optim.RMSprop(gan.critic.parameters(), lr=config.learning_rate)
    training = GenerativeTraining(gan, (generator_optimiser, critic_optimiser), rng)
    batch = min(config.batch_size, len(pool_nhwc))
    steps = len(pool_nhwc) // batch

    for epoch in epochs.of(training, config.epochs):
        order = torch.randperm(len(pool_nhwc), generator=rng, device=rng.device).cpu().numpy()
        for step in range(steps):
            rows = order[step * batch : (step + 1) * batch]
            real = torch.from_numpy(np.ascontiguousarray(pool_nhwc[rows])).to(device)
            critic_loss = _critic_loss(gan, real.permute(0, 3, 1, 2).float().div_(255), config, rng)
            critic_optimiser.zero_grad()
            critic_loss.backward()  # type: ignore[no-untyped-call]
            critic_optimiser.step()

            if ((epoch - 1) * steps + step + 1) % config.critic_steps == 0:
                gan.critic.requires_grad_(False)
                generator_loss = -gan.critic(gan.generator(_draw_z(gan, batch, rng))).mean()
                generator_optimiser.zero_grad()
                generator_loss.backward()
                generator_optimiser.step()
                gan.critic.requires_grad_(True)

        if not critic_loss.isfinite():
            raise ConfigError(
                f"synthesis.gan.learning_rate is {config.learning_rate}; the training diverged in epoch {epoch}, so "
                "it must be smaller"
            )


def _critic_loss(gan: Gan, real_nchw: torch.Tensor, config: GanConfig, rng: torch.Generator) -> torch.Tensor:
    """WGAN-GP's algorithm 1: fake scores less real ones, and (|gradient| - 1)^2 at points between the two.

    The points' weights are uniform, as in the paper; DivBFKD's code draws them from a normal distribution.
    """
    images = len(real_nchw)
    with torch.no_grad():
        fake_nchw = gan.generator(_draw_z(gan, images, rng))
    weight = torch.rand(images, 1, 1, 1, generator=rng, device=rng.device).to(real_nchw.device)
    between = torch.lerp(fake_nchw, real_nchw, weight).requires_grad_()
    (gradient,) = torch.autograd.grad(gan.critic(between).sum(), between, create_graph=True)
    penalty = (gradient.flatten(1).norm(dim=1) - 1).square().mean()
    fake_scores, real_scores = gan.critic(torch.cat([fake_nchw, real_nchw])).split(images)
    loss: torch.Tensor = fake_scores.mean() - real_scores.mean() + config.gradient_penalty * penalty
    return loss


def _draw_z(gan: Gan, images: int, rng: torch.Generator) -> torch.Tensor:
    z = torch.randn(images, gan.latent, generator=rng, device=rng.device)
    return z.to(next(gan.parameters()).device)


def candidates_per_block(image_chw: tuple[int, int, int]) -> int:
    """How many images a block of candidates holds."""
    return min(_BLOCK_IMAGES, max(1, _BLOCK_VALUES // math.prod(image_chw)))


def generate_candidates(gan: Gan, seed: int, block: int) -> NDArray[np.uint8]:
    """A block, counted from 0, of the images that a run may choose from: uint8 images_nhwc.

    Each block has randomness of its own, so any of them can be made again without those before.
    """
    shape = (candidates_per_block(gan.image_chw), gan.latent)
    z_nd = numpy_generator(seed, f"gan.candidates.{block}").standard_normal(shape, dtype=np.float32)
    device = next(gan.parameters()).device
    gan.eval()
    with torch.inference_mode():
        pixels_nchw = gan.generator(torch.from_numpy(z_nd).to(device))
    return quantise(pixels_nchw.permute(0, 2, 3, 1).cpu().numpy() * np.float32(255))
