"""A stage of buying, and what its method may look at."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch

from distill_client.material import Material
from distill_client.run_folder import RunFolder
from distill_client.stages.reporter import Reporter
from shared.wire.images import Images

# Real images that are bought for FS-BBT's CVAE alone.
SECOND_POOL = "second_pool"


def taught_stages(stages: Sequence[str]) -> list[str]:
    """Of the stages that were bought, those that our student may learn from."""
    return [stage for stage in stages if stage != SECOND_POOL]


@dataclass(frozen=True)
class Stage:
    """A name of its own within the run, and what gives its uint8 images_nhwc, in blocks, when it is recorded."""

    name: str
    render: Callable[[], Iterable[Images]]


@dataclass(frozen=True)
class Walk:
    """A run under way: its folder, with all that was bought, its pool and plan, who hears of it, and its device."""

    folder: RunFolder
    material: Material
    reporter: Reporter
    device: torch.device
