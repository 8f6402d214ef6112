"""Random variations of a training batch of labelled images, cut on the device that holds them."""

import torch

from teacher_server.training.recipes import Recipe


def varied_batch(
    images_nhwc: torch.Tensor, rows: torch.Tensor, recipe: Recipe, generator: torch.Generator
) -> torch.Tensor:
    """The images of ``rows``, each moved and perhaps mirrored by its own draw; uint8 N x H x W x C.

    An image moves by up to ``recipe.shift_fraction`` of its sides either way, in whole pixels.
    """
    height, width = images_nhwc.shape[1:3]
    reach_y, reach_x = (round(side * recipe.shift_fraction) for side in (height, width))
    if reach_y == reach_x == 0 and not recipe.flip:
        return images_nhwc[rows.to(images_nhwc.device)]
    device, count = images_nhwc.device, len(rows)
    ys = torch.arange(height, device=device) + _offsets(reach_y, count, generator, device)
    xs = torch.arange(width, device=device) + _offsets(reach_x, count, generator, device)
    if recipe.flip:
        mirrored = torch.rand((count, 1), generator=generator, device=generator.device).to(device) < 0.5
        xs = torch.where(mirrored, width - 1 - xs, xs)
    inside_y, inside_x = ys.clamp(0, height - 1), xs.clamp(0, width - 1)
    batch = images_nhwc[rows.to(device)[:, None, None], inside_y[:, :, None], inside_x[:, None, :]]
    if recipe.fill == "black":
        seen = (ys == inside_y)[:, :, None] & (xs == inside_x)[:, None, :]
        batch = batch * seen[..., None]
    return batch


def _offsets(reach: int, count: int, generator: torch.Generator, device: torch.device) -> torch.Tensor:
    """One whole number from -reach to reach for each image, N x 1."""
    return torch.randint(-reach, reach + 1, (count, 1), generator=generator, device=generator.device).to(device)
