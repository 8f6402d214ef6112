"""How fast students train, beside the usual loop and the machine's limit: `.venv/bin/python benchmarks/training.py`.

One epoch of each of the paper's students, three times in turns: by the loop that one would write with torchvision
(each image through PIL, RandomAffine, RandomHorizontalFlip and ToTensor in a DataLoader, then Adam as it comes), with
its images prepared in the training's own process and in two more, and by the project's own, which rotates, shifts and
mirrors as much; and three students at once by the project's own, side by side in one network (`stacking`). Nothing
is learnt: the images are noise, and speed does not depend on them.

The limit is arithmetic: the floating-point operations that torch counts in an image's way forward and back, over the
rate at which this machine multiplies matrices of 1,024 x 1,024. Only the ratios mean something; no figure is a test.
Where other programs share the processor, `--clock cpu --threads 1` counts the processor's time, that of the
DataLoader's processes too, rather than the wall's: what all of a way's work costs, wherever it is done.
"""

import os
import time
from collections.abc import Callable
from typing import Annotated, Literal

import numpy as np
import torch
import torch.nn.functional as F
import typer
from numpy.typing import NDArray
from torch import nn
from torch.utils.data import DataLoader, Dataset
from torch.utils.flop_counter import FlopCounterMode
from torchvision import transforms

from distill_client.config import AugmentationConfig, TrainingConfig
from distill_client.randomness import torch_generator
from distill_client.student.lessons import Lessons
from distill_client.student.networks import create_student
from distill_client.student.stacking import side_by_side
from distill_client.student.training import train_student

# The paper's students: image height and width, channels, batch size, and how many times ``--images`` an epoch has.
STUDENTS = {
    "lenet5": (28, 1, 64, 10),
    "lenet5-half": (28, 1, 64, 10),
    "alexnet": (32, 3, 128, 1),
    "alexnet-half": (32, 3, 128, 1),
    "resnet20": (32, 3, 16, 1),
}
CLASSES = 10
STACKED = 3  # the members of an ensemble, as our method has them
BOUNDS = AugmentationConfig(rotate_degrees=10, shift_fraction=0.1, flip=True)
WORKERS = (0, 2)

Clock = Literal["wall", "cpu"]


class UsualImages(Dataset[tuple[torch.Tensor, torch.Tensor]]):
    """One image at a time, through PIL."""

    def __init__(self, images_nhwc: NDArray[np.uint8], answers_nk: NDArray[np.float32]) -> None:
        self.images_nhwc, self.answers_nk = images_nhwc, torch.from_numpy(answers_nk)
        shift = (BOUNDS.shift_fraction, BOUNDS.shift_fraction)
        bilinear = transforms.InterpolationMode.BILINEAR
        self.transform = transforms.Compose(
            [
                transforms.ToPILImage(),
                transforms.RandomAffine(BOUNDS.rotate_degrees, translate=shift, interpolation=bilinear),
                transforms.RandomHorizontalFlip(),
                transforms.ToTensor(),
            ]
        )

    def __len__(self) -> int:
        return len(self.images_nhwc)

    def __getitem__(self, number: int) -> tuple[torch.Tensor, torch.Tensor]:
        return self.transform(self.images_nhwc[number]), self.answers_nk[number]


def train_usually(network: nn.Module, loader: DataLoader[tuple[torch.Tensor, torch.Tensor]]) -> None:
    """An epoch."""
    device = next(network.parameters()).device
    optimiser = torch.optim.Adam(network.parameters(), lr=1e-3)
    network.train()
    losses = 0.0
    for images_nchw, answers_nk in loader:
        optimiser.zero_grad()
        loss = F.cross_entropy(network(images_nchw.to(device)), answers_nk.to(device))
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        losses += loss.item()


def fresh(name: str, device: torch.device) -> nn.Module:
    """A student before its training."""
    side, channels, _, _ = STUDENTS[name]
    generator = torch_generator(1, "benchmark.weights")
    return create_student(name, image_hwc=(side, side, channels), classes=CLASSES, generator=generator).to(device)


def seconds_on(clock: Clock) -> float:
    """The wall's, or those that this process and the ended ones that it started have computed."""
    return time.perf_counter() if clock == "wall" else sum(os.times()[:4])


def measure(name: str, images: int, rounds: int, device: torch.device, clock: Clock) -> dict[str, float]:
    """Images per second, the best of ``rounds``: the usual loop by its number of workers, "ours", and "stacked".

    The last is of STACKED students at once, each of whose images counts.
    """
    side, channels, batch_size, times = STUDENTS[name]
    count = images * times // batch_size * batch_size
    rng = np.random.default_rng(1)
    images_nhwc = rng.integers(0, 256, (count, side, side, channels), dtype=np.uint8)
    answers_nk = rng.dirichlet(np.ones(CLASSES), count).astype(np.float32)
    usual_images = UsualImages(images_nhwc, answers_nk)
    lessons = Lessons(images_nhwc, answers_nk, "geometric", BOUNDS)

    def usually(workers: int) -> Callable[[], object]:
        loader = DataLoader(usual_images, batch_size, shuffle=True, num_workers=workers)
        return lambda: train_usually(fresh(name, device), loader)

    def ours(students: int = 1, **length: int) -> object:
        network = side_by_side([fresh(name, device) for _ in range(students)])
        config = TrainingConfig(batch_size=batch_size, learning_rate=1e-3, **length)
        generator = torch_generator(1, "benchmark.training", device)
        return train_student(network.to(device), lessons, config, generator)

    for students in (1, STACKED):
        ours(students, steps=2)  # what is loaded and chosen at first is no part of an epoch
    train_usually(
        fresh(name, device), DataLoader(torch.utils.data.Subset(usual_images, range(2 * batch_size)), batch_size)
    )
    ways = {f"{workers} workers": usually(workers) for workers in WORKERS}
    ways |= {"ours": lambda: ours(epochs=1), "stacked": lambda: ours(STACKED, epochs=1)}
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    for _ in range(rounds):
        for way, train in ways.items():
            started = seconds_on(clock)
            train()
            seconds[way].append(seconds_on(clock) - started)
    trained = {way: count * (STACKED if way == "stacked" else 1) for way in ways}
    return {way: trained[way] / min(spent) for way, spent in seconds.items()}


def operations_per_image(name: str) -> float:
    """Floating-point operations of convolutions and matrix products, forward and back; a multiply-add is two."""
    side, channels, batch_size, _ = STUDENTS[name]
    network = fresh(name, torch.device("cpu")).train()
    with FlopCounterMode(display=False) as counter:
        network(torch.zeros(batch_size, channels, side, side)).sum().backward()
    return float(counter.get_total_flops()) / batch_size


def matrix_rate(device: torch.device, clock: Clock) -> float:
    """Floating-point operations per second of float32 matrix products, the best of twenty times ten."""
    one = torch.rand(1024, 1024, device=device)
    best = float("inf")
    for _ in range(20):
        started = seconds_on(clock)
        for _ in range(10):
            product = one @ one
        float(product[0, 0])  # a GPU has done them all then
        best = min(best, seconds_on(clock) - started)
    return 10 * 2 * 1024**3 / best


def main(
    images: Annotated[int, typer.Option(help="of an epoch; ten times as many for LeNet5", min=128)] = 1024,
    rounds: Annotated[int, typer.Option(help="of all ways in turns; the best of each counts", min=1)] = 3,
    threads: Annotated[
        int, typer.Option(help="of torch, in the training's process; 0 for its own choice", min=0)
    ] = 0,
    device: Annotated[str, typer.Option(help="cpu or cuda")] = "cpu",
    clock: Annotated[Clock, typer.Option(help="whose seconds: cpu where others share the processor")] = "wall",
    only: Annotated[str, typer.Option(help="comma-separated students")] = ",".join(STUDENTS),
) -> None:
    """Print a row for each student, in about two minutes on two cores."""
    if threads:
        torch.set_num_threads(threads)
    place = torch.device(device)
    rate = matrix_rate(place, clock)
    print(f"matrix products: {rate / 1e9:,.0f} GFLOP/s, {torch.get_num_threads()} threads, {device}, {clock} clock")
    print(
        "images/s      usual, 0 workers   2 workers        ours   ours / better usual     limit   ours / limit"
        f"   {STACKED} at once   / ours"
    )
    for name in only.split(","):
        found = measure(name, images, rounds, place, clock)
        usual, limit = max(found[f"{workers} workers"] for workers in WORKERS), rate / operations_per_image(name)
        print(
            f"{name:<13} {found['0 workers']:16,.0f} {found['2 workers']:11,.0f} {found['ours']:11,.0f} "
            f"{found['ours'] / usual:21.1f} {limit:9,.0f} {found['ours'] / limit:14.2f} "
            f"{found['stacked']:11,.0f} {found['stacked'] / found['ours']:8.2f}",
            flush=True,
        )


if __name__ == "__main__":
    typer.run(main)
