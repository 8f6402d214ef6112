"""Active MixUp (Wang et al., BBKD, CVPR 2020, section 3.3): blends of pool images that a student is least sure of.

A student's confidence in an image is the probability of its top class. Each candidate, a pair of pool images, stands
for its blend of least confidence over a grid of shares; of all candidates those of least confidence are bought.
"""

import math
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from distill_client.config import ActiveConfig

# Blends per batch, and bounds its activations too: 1,024 images of up to 36x36x3, 27 of 224x224x3.
_BATCH_IMAGES = 1024
_BATCH_VALUES = 1 << 22


def shares(config: ActiveConfig) -> NDArray[np.float64]:
    """The grid of the first image's share, float64 from least to most; the published one has 11 places."""
    places = math.floor((config.most_share - config.least_share) / config.share_step + 1e-9) + 1
    grid: NDArray[np.float64] = np.round(config.least_share + config.share_step * np.arange(places), 6)
    return grid


def draw_candidates(count: int, pool_images: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """``count`` different pairs of different pool images, or all there are: int64 N x 2, the lower index first."""
    pairs = pool_images * (pool_images - 1) // 2
    number = rng.choice(pairs, count, replace=False) if count < pairs else np.arange(pairs)
    # Pairs are numbered (0, 1), (0, 2), (1, 2), (0, 3), ...: those whose higher image is k begin at k (k - 1) / 2.
    higher = np.floor((1 + np.sqrt(1 + 8 * number.astype(np.float64))) / 2).astype(np.int64)
    higher -= higher * (higher - 1) // 2 > number  # where the root was rounded up
    return np.stack([number - higher * (higher - 1) // 2, higher], axis=1).astype(np.int64)


def least_confident(
    student: nn.Module,
    pool_nhwc: NDArray[np.uint8],
    candidates_n2: NDArray[np.int64],
    shares_s: NDArray[np.float64],
    progress: Callable[[int], None] | None = None,
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Each candidate's least confidence over the shares, float32 N, and the place of that share, int64 N.

    Blends are rounded to whole values, as they would be sent; in float32, so that a pixel half way between two values
    may go the other way than in what is bought. Computed where the student's weights are, in evaluation mode.
    ``progress`` hears how many candidates were looked at.
    """
    device = next(student.parameters()).device
    student.eval()
    pool_nchw = torch.from_numpy(np.ascontiguousarray(pool_nhwc)).to(device).permute(0, 3, 1, 2)
    batch = max(1, min(_BATCH_IMAGES, _BATCH_VALUES // math.prod(pool_nhwc.shape[1:])))
    confidence_n = np.empty(len(candidates_n2), dtype=np.float32)
    place_n = np.empty(len(candidates_n2), dtype=np.int64)
    with torch.inference_mode():
        for start in range(0, len(candidates_n2), batch):
            pairs = torch.from_numpy(candidates_n2[start : start + batch]).to(device)
            one, other = pool_nchw[pairs[:, 0]].float(), pool_nchw[pairs[:, 1]].float()
            confidences_sn = torch.stack([_confidence(student, one, other, share) for share in shares_s.tolist()])
            least_n, at_n = confidences_sn.min(dim=0)
            confidence_n[start : start + batch] = least_n.cpu().numpy()
            place_n[start : start + batch] = at_n.cpu().numpy()
            if progress is not None:
                progress(start + len(pairs))
    return confidence_n, place_n


def _confidence(student: nn.Module, one: torch.Tensor, other: torch.Tensor, share: float) -> torch.Tensor:
    blends_nchw = torch.lerp(other, one, share).round_().div_(255)
    return torch.softmax(student(blends_nchw), dim=1).amax(dim=1)


def choose(confidence_n: NDArray[np.float32], is_taken_n: NDArray[np.bool_], count: int) -> NDArray[np.int64]:
    """The ``count`` candidates of least confidence that are not taken yet, least first; int64."""
    order = np.argsort(np.where(is_taken_n, np.float32(np.inf), confidence_n), kind="stable")
    chosen: NDArray[np.int64] = order[:count].astype(np.int64)
    assert not is_taken_n[chosen].any()
    return chosen
