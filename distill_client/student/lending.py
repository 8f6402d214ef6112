"""A whole run under torchrun: rank 0 is the run, and the others lend it their devices whenever it trains.

    torchrun --nproc-per-node 4 --no-python distill run CONFIG --teacher URL --out DIR --device cuda

So nothing is bought twice, no folder has two writers, and a run need not know how many ranks it has. Those that wait
know no key, no teacher and no file: rank 0 sends them what it trains with. Between the ranks of one job torch pickles
what it sends; nothing from outside the job comes that way, and nothing of it is kept.
"""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import nn

from distill_client.config import EnsembleConfig, TrainingConfig
from distill_client.errors import ConfigError
from distill_client.student.ensemble import Ensemble
from distill_client.student.lessons import Lessons
from distill_client.student.networks import create_student
from distill_client.student.ranks import Ranks, joined, own_device
from distill_client.student.stacking import networks_in, side_by_side
from distill_client.student.training import train_student


@dataclass(frozen=True)
class _Training:
    """What a rank needs for its part of a training: ``lessons`` with their images copied out and no ensemble in them.

    ``stacked`` networks train side by side. ``teachers`` are the ensemble's networks: of each, how many members it
    stands for, and its weights, on the CPU. All are of one architecture.
    """

    network: str
    lessons: Lessons
    config: TrainingConfig
    seed: int
    device_kind: str
    stacked: int
    amplification: EnsembleConfig | None
    teachers: list[tuple[int, dict[str, torch.Tensor]]]

    def take_part(self) -> None:
        """Train as rank 0 does; it sends its weights, and its state where it goes on from a checkpoint."""
        device = own_device(self.device_kind)
        lessons = self.lessons
        if self.amplification is not None:
            networks = [self._network(members, weights).to(device).eval() for members, weights in self.teachers]
            lessons = replace(lessons, ensemble=Ensemble(networks, self.amplification))
        generator = torch.Generator(device).manual_seed(self.seed)
        with suppress(ConfigError):  # rank 0 has the same, and says it
            train_student(self._network(self.stacked).to(device), lessons, self.config, generator)

    def _network(self, members: int, weights: dict[str, torch.Tensor] | None = None) -> nn.Module:
        height, width, channels = self.lessons.images_nhwc.shape[1:]
        classes, generator = self.lessons.targets_nk.shape[1], torch.Generator()
        network = side_by_side(
            [
                create_student(
                    self.network, image_hwc=(height, width, channels), classes=classes, generator=generator
                )
                for _ in range(members)
            ]
        )
        if weights is not None:
            network.load_state_dict(weights)
        return network


def call_ranks(
    network: str, lessons: Lessons, config: TrainingConfig, seed: int, device: torch.device, stacked: int = 1
) -> None:
    """Have the waiting ranks take part in the training that rank 0 begins next; without any, do nothing.

    ``network`` is the architecture's name, ``seed`` that of the training's generator; ``stacked`` networks train side
    by side. Raises ConfigError as ``require_own`` does.
    """
    ranks = Ranks.here()
    if ranks.count == 1:
        return
    require_own(device)
    ensemble = lessons.ensemble
    copied = lessons.gather(np.arange(len(lessons)))
    training = _Training(
        network,
        replace(lessons, images_nhwc=copied, rows_n=None, ensemble=None),
        config,
        seed,
        device.type,
        stacked,
        None if ensemble is None else ensemble.config,
        [] if ensemble is None else [(networks_in(taught), _on_cpu(taught)) for taught in ensemble.networks],
    )
    ranks.told(training)


def require_own(device: torch.device) -> None:
    """Raise ConfigError where the device that a user named is another GPU than this rank's own."""
    if device.index is not None and device != own_device(device.type):
        raise ConfigError(
            f"device is {device}; allowed under torchrun are cpu and cuda, of which each process has one of its own"
        )


def _on_cpu(network: nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.cpu() for name, tensor in network.state_dict().items()}


def run_on_first_rank(run: Callable[[], None]) -> None:
    """Be one of the processes that torchrun started: rank 0 does ``run``, the others lend it their devices.

    Raises SystemExit on the others where rank 0 ends before it has finished; it says why.
    """
    with joined() as ranks:
        if ranks.number > 0:
            _lend(ranks)
            return
        try:
            run()
        except SystemExit as end:  # how a command ends, also one that has done its work
            if end.code:
                raise
        ranks.told(None)


def _lend(ranks: Ranks) -> None:
    while True:
        try:
            training = ranks.told(None)
        except (RuntimeError, KeyboardInterrupt):
            raise SystemExit(1) from None
        if training is None:
            return
        training.take_part()
