"""One training on several devices: torchrun starts a process, a rank, for each, and torch's DDP averages gradients.

Every rank holds all the lessons, draws the whole of every batch from the same generator, varies it whole, and learns
its own part. So what is learnt does not depend on how many ranks there are, but for the order of sums; for dropout,
which every rank draws for itself; and for batch normalisation, which is over a rank's own part, as is DDP's custom.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Self

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from distill_client.errors import ConfigError

# While rank 0 buys, for days where the teacher is slow, the others wait. torchrun notices a rank that is gone.
_WAIT = timedelta(days=365)


@dataclass(frozen=True)
class Ranks:
    """Which rank this process is, from 0, and of how many; without torchrun the only one."""

    number: int = 0
    count: int = 1

    @classmethod
    def here(cls) -> Self:
        """This process'."""
        return cls(dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else cls()

    def learner(self, network: nn.Module) -> nn.Module:
        """What stands for ``network`` in a training: the same weights, and gradients that are the ranks' mean."""
        return network if self.count == 1 else DistributedDataParallel(network)

    def part(self, images: int, members: int = 1) -> slice:
        """This rank's rows of a batch, of which each image has ``members``, one for each network that is trained.

        Raises ConfigError where a rank would have none.
        """
        if images < self.count:
            raise ConfigError(
                f"training.batch_size: a batch has {images} images for {self.count} processes; allowed is at least "
                "one for each"
            )
        first, end = self._first_row(self.number, images), self._first_row(self.number + 1, images)
        return slice(first * members, end * members)

    def weight(self, images: int) -> float:
        """What a mean over this rank's part is multiplied by, for the mean of the ranks to be the batch's."""
        rows = self._first_row(self.number + 1, images) - self._first_row(self.number, images)
        return rows * self.count / images

    def _first_row(self, number: int, images: int) -> int:
        return images * number // self.count

    def reseed(self, seed: int, step: int) -> None:
        """Where there are several ranks, make torch's own draws in a step, dropout, this rank's and this step's own.

        So they are the same again in a training that goes on, whose checkpoint holds rank 0's state alone.
        """
        if self.count > 1:
            torch.manual_seed(seed + step * self.count + self.number)

    def mean(self, value: torch.Tensor) -> torch.Tensor:
        """The ranks' mean of a tensor, on every one of them."""
        if self.count > 1:
            dist.all_reduce(value)
            value /= self.count
        return value

    def told(self, value: Any) -> Any:
        """What rank 0 has in ``value``, on every rank; the others wait for it."""
        box = [value]
        if self.count > 1:
            dist.broadcast_object_list(box, src=0)
        return box[0]


def own_device(kind: str) -> torch.device:
    """This rank's device of a kind: the CPU, or the GPU with its number on this machine."""
    return torch.device(kind, int(os.environ["LOCAL_RANK"])) if kind == "cuda" else torch.device(kind)


@contextmanager
def joined() -> Iterator[Ranks]:
    """Meet the other ranks that torchrun started, and part from them at the end; after an error, without a word."""
    has_gpu = torch.cuda.is_available()
    if has_gpu:
        torch.cuda.set_device(own_device("cuda"))
    dist.init_process_group("cpu:gloo,cuda:nccl" if has_gpu else "gloo", timeout=_WAIT)
    yield Ranks.here()
    dist.destroy_process_group()
