"""Make a teacher: one plain training loop over a labelled data set, and the bundle written from it.

The recipes for Fashion-MNIST and MNIST are those of the FS-BBT paper's teachers (Adam at a constant 1e-3, batches
of 64, 20 epochs, no augmentation, pixels / 255), so that results compare. The last epoch's weights are kept whatever
they are worth; the test split is looked at once, after it.
"""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path

import torch
from pydantic import TypeAdapter, ValidationError
from torch import nn
from torch.nn import functional as F

from shared.datasets import Dataset, load_dataset
from shared.networks import create_network
from teacher_server.teachers.bundle import Bundle, choose_device, require_writable, serialise_weights, write_bundle
from teacher_server.teachers.classifier import Preprocessing
from teacher_server.teachers.manifest import (
    BundleManifest,
    InputTable,
    MeasuredTable,
    Name,
    NetworkTable,
    Text,
    TrainingTable,
    Version,
)

# Called with (steps done, steps in all, mean loss since the call before).
Progress = Callable[[int, int, float], None]

STEPS_PER_PROGRESS = 50
ROWS_PER_MEASUREMENT = 1000


@dataclass(frozen=True)
class Recipe:
    """How to train.

    ``cosine`` lets the learning rate fall to 0 along half a cosine, else it stays; ``shift_pixels`` moves each image
    by up to that much either way, filling up with black. ``threads`` is of the CPU: batches this small gain nothing
    from a second thread, lose a hundredfold when something else wants its core, and give other last digits with it.
    """

    epochs: int
    batch_size: int = 64
    learning_rate: float = 1e-3
    cosine: bool = False
    shift_pixels: int = 0
    threads: int = 1


RECIPES = {
    "fashion-mnist": Recipe(epochs=20),
    "mnist": Recipe(epochs=20),
    "digits": Recipe(epochs=40, cosine=True, shift_pixels=2),
}


@dataclass(frozen=True)
class TrainingOrder:
    """What to train. An empty ``name`` stands for ``<dataset>-<network>``, ``epochs`` None for the recipe's own.

    ``command`` is recorded in the bundle for whoever wants to make it again.
    """

    dataset: str
    network: str
    name: str = ""
    version: str = "1"
    seed: int = 1
    device: str = "cpu"
    epochs: int | None = None
    command: str = "train_and_write_bundle"

    @property
    def bundle_name(self) -> str:
        """The teacher's name in the bundle."""
        return self.name or f"{self.dataset}-{self.network}"

    def recipe(self) -> Recipe:
        """The data set's recipe with this order's epochs; raises ValueError when there is none."""
        if self.dataset not in RECIPES:
            raise ValueError(f"data set is {self.dataset!r}; teachers can be trained on {', '.join(RECIPES)}")
        if self.epochs is not None and self.epochs < 1:
            raise ValueError(f"epochs is {self.epochs}; allowed is 1 or more")
        recipe = RECIPES[self.dataset]
        return recipe if self.epochs is None else replace(recipe, epochs=self.epochs)


def train_and_write_bundle(
    order: TrainingOrder, folder: Path, *, progress: Progress | None = None, overwrite: bool = False
) -> Bundle:
    """Train as ordered, measure once on the test split, and write the bundle; nothing is written before the end.

    Raises ValueError for an order that cannot be carried out, DatasetUnavailable, and BundleError when ``folder``
    exists (before any training) and ``overwrite`` is false.
    """
    recipe, device = order.recipe(), choose_device(order.device)
    _require_fields(order)
    require_writable(folder, overwrite=overwrite)
    train, test = load_dataset(order.dataset, "train"), load_dataset(order.dataset, "test")
    started = time.monotonic()
    network = train_teacher(train, order.network, recipe, seed=order.seed, device=device, progress=progress)
    seconds = time.monotonic() - started
    weights, weights_table = serialise_weights(network)
    manifest = BundleManifest(
        name=order.bundle_name,
        version=order.version,
        classes=train.class_names,
        input=_input_of(train),
        network=NetworkTable(name=order.network),
        weights=weights_table,
        measured=MeasuredTable(
            test_accuracy=measure_accuracy(network, test, device),
            test_dataset=test.name,
            test_images=len(test.images_nhwc),
        ),
        training=_record(order, recipe, seconds),
    )
    return write_bundle(folder, manifest, weights, overwrite=overwrite)


def _require_fields(order: TrainingOrder) -> None:
    """Raise ValueError for what the bundle's manifest would refuse, before any training rather than after it."""
    for field, value, allowed in (
        ("name", order.bundle_name, Name),
        ("version", order.version, Version),
        ("command", order.command, Text),
    ):
        try:
            TypeAdapter(allowed).validate_python(value)
        except ValidationError as error:
            raise ValueError(f"{field} is {value!r}: {error.errors()[0]['msg']}") from error


def train_teacher(
    train: Dataset,
    network_name: str,
    recipe: Recipe,
    *,
    seed: int,
    device: torch.device,
    progress: Progress | None = None,
) -> nn.Module:
    """Train a fresh network, in eval mode after it; the same seed and machine give the same weights.

    Raises ValueError when the network is unknown or not defined for the data set's images.
    """
    network = _fresh_network(network_name, train, seed).to(device)
    with _cpu_threads(recipe.threads):
        _fit(network.train(), train, recipe, torch.Generator(device).manual_seed(seed), progress)
    return network.eval()


def _fit(
    network: nn.Module, train: Dataset, recipe: Recipe, generator: torch.Generator, progress: Progress | None
) -> None:
    device = generator.device
    # The whole split lives on the device as uint8 (47 MB for Fashion-MNIST); batches are cut and scaled there.
    margin = recipe.shift_pixels
    bordered_nhwc = F.pad(torch.tensor(train.images_nhwc), (0, 0, margin, margin, margin, margin)).to(device)
    truth_n = torch.tensor(train.truth_n, device=device)
    prepare = Preprocessing(_input_of(train), device)
    optimiser = torch.optim.Adam(network.parameters(), lr=recipe.learning_rate, fused=True)
    steps_in_all = recipe.epochs * -(-len(truth_n) // recipe.batch_size)
    step, loss_since = 0, torch.zeros((), device=device)

    for _ in range(recipe.epochs):
        order = torch.randperm(len(truth_n), generator=generator, device=device)
        for rows in torch.split(order, recipe.batch_size):
            for group in optimiser.param_groups if recipe.cosine else ():
                group["lr"] = recipe.learning_rate * (1 + math.cos(math.pi * step / steps_in_all)) / 2
            images_nchw = prepare(shifted_batch(bordered_nhwc, rows, margin, generator))
            loss = F.cross_entropy(network(images_nchw), truth_n[rows])
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()

            step, loss_since = step + 1, loss_since + loss.detach()
            if progress and (step % STEPS_PER_PROGRESS == 0 or step == steps_in_all):
                since = (step - 1) % STEPS_PER_PROGRESS + 1
                progress(step, steps_in_all, float(loss_since) / since)
                loss_since = torch.zeros_like(loss_since)


@contextmanager
def _cpu_threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def measure_accuracy(network: nn.Module, test: Dataset, device: torch.device) -> float:
    """The fraction of test images whose most probable class is the true one."""
    prepare = Preprocessing(_input_of(test), device)
    right = 0
    with torch.inference_mode():
        for start in range(0, len(test.truth_n), ROWS_PER_MEASUREMENT):
            rows = slice(start, start + ROWS_PER_MEASUREMENT)
            logits_nk = network(prepare(torch.tensor(test.images_nhwc[rows], device=device)))
            right += int((logits_nk.argmax(1).cpu() == torch.tensor(test.truth_n[rows])).sum())
    return right / len(test.truth_n)


def shifted_batch(
    bordered_nhwc: torch.Tensor, rows: torch.Tensor, margin: int, generator: torch.Generator
) -> torch.Tensor:
    """The images of ``rows``, uint8 N x H x W x C, each cut out of its border at a random offset.

    ``bordered_nhwc`` has ``margin`` pixels on every side, so an image moves by up to that many either way.
    """
    if margin == 0:
        return bordered_nhwc[rows]
    device = bordered_nhwc.device
    height, width = (side - 2 * margin for side in bordered_nhwc.shape[1:3])
    offsets = torch.randint(2 * margin + 1, (2, len(rows), 1), generator=generator, device=device)
    ys, xs = offsets[0] + torch.arange(height, device=device), offsets[1] + torch.arange(width, device=device)
    return bordered_nhwc[rows[:, None, None], ys[:, :, None], xs[:, None, :]]


def _fresh_network(name: str, train: Dataset, seed: int) -> nn.Module:
    _, height, width, channels = train.images_nhwc.shape
    with torch.random.fork_rng():  # initial weights come from the global generator: seed it, then leave it as it was
        torch.manual_seed(seed)
        return create_network(name, height=height, width=width, channels=channels, classes=len(train.class_names))


def _input_of(dataset: Dataset) -> InputTable:
    """The data set's images scaled to 0..1 and no further, as the paper does."""
    _, height, width, channels = dataset.images_nhwc.shape
    return InputTable.model_validate(
        {"height": height, "width": width, "channels": channels, "mean": [0.0] * channels, "std": [1.0] * channels}
    )


def _record(order: TrainingOrder, recipe: Recipe, seconds: float) -> TrainingTable:
    return TrainingTable(
        command=order.command,
        seed=order.seed,
        device=order.device,
        threads=recipe.threads,
        epochs=recipe.epochs,
        batch_size=recipe.batch_size,
        learning_rate=recipe.learning_rate,
        seconds=round(seconds, 1),
        versions={package: version(package) for package in ("torch", "numpy")},
    )
