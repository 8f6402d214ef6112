"""Random variations of a training batch that cost no query: the answers are kept or interpolated, never asked for.

All of a batch is varied at once, on its device. Random numbers are drawn where the generator lives, so a CPU
generator gives the same variations on every device.
"""

import math

import torch
import torch.nn.functional as F

from distill_client.config import Augmentation, AugmentationConfig
from distill_client.student.losses import Targets

_WITH_BLENDS: dict[Augmentation, Augmentation] = {"none": "mixup", "geometric": "combination"}
_WITHOUT_BLENDS: dict[Augmentation, Augmentation] = {blends: plain for plain, blends in _WITH_BLENDS.items()}


def with_blends(mode: Augmentation) -> Augmentation:
    """The same, with blends whose answers are interpolated."""
    return _WITH_BLENDS.get(mode, mode)


def without_blends(mode: Augmentation) -> Augmentation:
    """The same, with no blends."""
    return _WITHOUT_BLENDS.get(mode, mode)


def augment(
    mode: Augmentation,
    bounds: AugmentationConfig,
    images_nchw: torch.Tensor,
    targets: Targets,
    generator: torch.Generator,
    real_n: torch.Tensor | None = None,
) -> tuple[torch.Tensor, Targets]:
    """Vary float images_nchw and their targets; "combination" blends first and transforms then, as published.

    With ``bounds.real_alone`` only the images of ``real_n`` (bool) are transformed, all of them without it, and then
    blended: a made image was transformed before it was bought, and its answer is for the very pixels.
    """
    blends, turns = mode in ("mixup", "combination"), mode in ("geometric", "combination")
    if turns and bounds.real_alone:
        turned_nchw = transform_geometrically(images_nchw, bounds, generator)
        images_nchw = (
            turned_nchw if real_n is None else torch.where(real_n[:, None, None, None], turned_nchw, images_nchw)
        )
    if blends:
        images_nchw, targets = mix_within_batch(images_nchw, targets, generator, bounds.blended_fraction)
    if turns and not bounds.real_alone:
        images_nchw = transform_geometrically(images_nchw, bounds, generator)
    return images_nchw, targets


def mix_within_batch(
    images_nchw: torch.Tensor, targets: Targets, generator: torch.Generator, fraction: float = 1.0
) -> tuple[torch.Tensor, Targets]:
    """Blend each image with another of the batch by its own lambda ~ U(0, 1) = Beta(1, 1), and the targets alike.

    The released FS-BBT code does this to its whole bought set again; the interpolated target stands in for an
    answer that is not bought. Of a ``fraction`` below one the rest of the batch is learnt as the teacher answered it.
    """
    images, partner, share_n1 = blend_within_batch(images_nchw, generator, fraction)
    return images, targets.blended(partner, share_n1)


def blend_within_batch(
    images_nchw: torch.Tensor, generator: torch.Generator, fraction: float = 1.0
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The images alone of ``mix_within_batch``, each one's partner (int64 N), and its own share_n1."""
    count = len(images_nchw)
    partner = torch.randperm(count, generator=generator, device=generator.device).to(images_nchw.device)
    share_n1 = torch.rand(count, 1, generator=generator, device=generator.device).to(images_nchw.device)
    share_n1[round(fraction * count) :] = 1  # all of it its own
    return torch.lerp(images_nchw[partner], images_nchw, share_n1[:, :, None, None]), partner, share_n1


def transform_geometrically(
    images_nchw: torch.Tensor, bounds: AugmentationConfig, generator: torch.Generator
) -> torch.Tensor:
    """Rotate, shift and perhaps flip each image by its own amounts; bilinear, and what enters is black."""
    count, _, height, width = images_nchw.shape
    # In [-1, 1): the angle, the two shifts, and whose sign decides the flip.
    drawn = torch.rand(4, count, generator=generator, device=generator.device).to(images_nchw.device) * 2 - 1
    angle = drawn[0] * math.radians(bounds.rotate_degrees)
    cosine, sine = torch.cos(angle), torch.sin(angle)
    mirror = torch.where(drawn[3] < 0, -1.0, 1.0) if bounds.flip else torch.ones_like(angle)
    # affine_grid's unit is half an image side, so a shift of f sides is 2 f, and a rotation in pixels is skewed by
    # the side ratio.
    shift = drawn[1:3] * 2 * bounds.shift_fraction
    across = torch.stack([mirror * cosine, -mirror * sine * (height / width), shift[0]], dim=1)
    down = torch.stack([sine * (width / height), cosine, shift[1]], dim=1)
    grid = F.affine_grid(torch.stack([across, down], dim=1), list(images_nchw.shape), align_corners=False)
    return F.grid_sample(images_nchw, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
