"""Make a teacher: one plain training loop over a labelled data set, and the bundle written from it.

The last epoch's weights are kept whatever they are worth; the test split is looked at once, after it. A training that
is killed goes on from its last whole epoch when the same command is given again.
"""

import hashlib
import re
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
from shared.wire.images import batch_digest, image_digests
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
from teacher_server.training.augmentation import varied_batch
from teacher_server.training.checkpoint import Checkpoint, TrainingState
from teacher_server.training.recipes import PRECISIONS, Precision, Recipe, recipe_for

# Called with (steps done, steps in all, mean loss since the call before).
Progress = Callable[[int, int, float], None]

STEPS_PER_PROGRESS = 50
SECONDS_PER_CHECKPOINT = 30.0  # at most so much of a training (and the epoch it is in) is lost with its process
ROWS_PER_MEASUREMENT = 250
DEVICE_BYTES_MAX = 4 << 30


@dataclass(frozen=True)
class TrainingOrder:
    """What to train. An empty ``name`` stands for ``DATASET-NETWORK``, None for the recipe's own.

    ``command`` is recorded in the bundle for whoever wants to make it again.
    """

    dataset: str
    network: str
    name: str = ""
    version: str = "1"
    seed: int = 1
    device: str = "cpu"
    epochs: int | None = None
    precision: Precision = "float32"
    threads: int | None = None
    command: str = "train_and_write_bundle"

    @property
    def bundle_name(self) -> str:
        """The teacher's name in the bundle."""
        dataset = Path(self.dataset.removeprefix("folder:")).name
        return self.name or re.sub(r"[^a-z0-9._-]+", "-", f"{dataset}-{self.network}".lower())

    def recipe(self) -> Recipe:
        """The data set's recipe with what this order changes in it; raises ValueError for what cannot be."""
        recipe = replace(recipe_for(self.dataset), precision=self.precision)
        if self.precision not in PRECISIONS:
            raise ValueError(f"precision is {self.precision!r}; allowed are {', '.join(PRECISIONS)}")
        for field, value in (("epochs", self.epochs), ("threads", self.threads)):
            if value is not None and value < 1:
                raise ValueError(f"{field} is {value}; allowed is 1 or more")
        return replace(recipe, epochs=self.epochs or recipe.epochs, threads=self.threads or recipe.threads)


def train_and_write_bundle(
    order: TrainingOrder, folder: Path, *, progress: Progress | None = None, overwrite: bool = False
) -> Bundle:
    """Train as ordered, measure once on the test split, and write the bundle; nothing is written before the end.

    Until then a checkpoint lies beside ``folder``, from which the same order goes on. Raises ValueError for an order
    that cannot be carried out, DatasetUnavailable, and BundleError when ``folder`` exists (before any training) and
    ``overwrite`` is false.
    """
    recipe, device = order.recipe(), choose_device(order.device)
    _require_fields(order)
    require_writable(folder, overwrite=overwrite)
    train, test = load_dataset(order.dataset, "train"), load_dataset(order.dataset, "test")
    checkpoint = Checkpoint.beside(folder, repr(recipe), order.network, str(order.seed), dataset_fingerprint(train))
    generator = torch.Generator(device).manual_seed(order.seed)
    network, seconds = train_teacher(
        train, order.network, recipe, generator, progress=progress, checkpoint=checkpoint
    )
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
    bundle = write_bundle(folder, manifest, weights, overwrite=overwrite)
    checkpoint.remove()
    return bundle


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
    generator: torch.Generator,
    *,
    progress: Progress | None = None,
    checkpoint: Checkpoint | None = None,
) -> tuple[nn.Module, float]:
    """Train a fresh network on the generator's device; returns it in eval mode, and the seconds that it took.

    The same seed and machine give the same weights, however often the training was killed on its way; the seconds of
    whole epochs before a kill are counted.
    Raises ValueError when the network is unknown or not defined for the data set's images, or the checkpoint cannot
    be gone on from.
    """
    seed = generator.initial_seed()
    network = _fresh_network(network_name, train, seed).to(generator.device)
    optimiser = torch.optim.Adam(_parameter_groups(network, recipe), lr=recipe.learning_rate, fused=True)
    state = TrainingState(network.train(), optimiser, generator)
    # Dropout draws from torch's global generator: seed it, then leave it as it was.
    with _cpu_threads(recipe.threads), torch.random.fork_rng():
        torch.manual_seed(seed)
        if checkpoint is not None:
            checkpoint.restore(state)
        _fit(state, train, recipe, progress, checkpoint)
    return network.eval(), state.seconds


def _parameter_groups(network: nn.Module, recipe: Recipe) -> list[dict[str, object]]:
    """Keras adds l2 times a convolution's squared weights to the loss, whose gradient is Adam's decay of 2 * l2."""
    if recipe.l2 == 0:
        return [{"params": list(network.parameters())}]
    decayed = [layer.weight for layer in network.modules() if isinstance(layer, nn.Conv2d)]
    among = {id(parameter) for parameter in decayed}
    others = [parameter for parameter in network.parameters() if id(parameter) not in among]
    return [{"params": decayed, "weight_decay": 2 * recipe.l2}, {"params": others}]


def _fit(
    state: TrainingState, train: Dataset, recipe: Recipe, progress: Progress | None, checkpoint: Checkpoint | None
) -> None:
    network, optimiser, generator, device = state.network, state.optimiser, state.generator, state.generator.device
    # A split that is small enough lives on the device as uint8; batches are cut and scaled there.
    images_nhwc = torch.from_numpy(train.images_nhwc)
    if train.images_nhwc.nbytes <= DEVICE_BYTES_MAX:
        images_nhwc = images_nhwc.to(device)
    truth_n = torch.tensor(train.truth_n, device=device)
    prepare = Preprocessing(_input_of(train), device)
    steps_per_epoch = len(_batches(truth_n, recipe))
    steps_in_all = recipe.epochs * steps_per_epoch
    step, loss_since, losses_since = state.epoch * steps_per_epoch, torch.zeros((), device=device), 0
    started, saved = time.monotonic() - state.seconds, time.monotonic()

    while state.epoch < recipe.epochs:
        order = torch.randperm(len(truth_n), generator=generator, device=device)
        for rows in _batches(order, recipe):
            for group in optimiser.param_groups:
                group["lr"] = recipe.learning_rate_at(step, steps_in_all)
            images_nchw = prepare(varied_batch(images_nhwc, rows, recipe, generator).to(device))
            with torch.autocast(device.type, torch.bfloat16, enabled=recipe.precision == "bfloat16"):
                logits_nk = network(images_nchw)
            loss = F.cross_entropy(logits_nk.float(), truth_n[rows])
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()

            step, loss_since, losses_since = step + 1, loss_since + loss.detach(), losses_since + 1
            if progress and (step % STEPS_PER_PROGRESS == 0 or step == steps_in_all):
                progress(step, steps_in_all, float(loss_since) / losses_since)
                loss_since, losses_since = torch.zeros_like(loss_since), 0
        state.epoch, state.seconds = state.epoch + 1, time.monotonic() - started
        finished = state.epoch == recipe.epochs
        if checkpoint is not None and (finished or time.monotonic() - saved >= SECONDS_PER_CHECKPOINT):
            checkpoint.save(state)
            saved = time.monotonic()


def _batches(order: torch.Tensor, recipe: Recipe) -> list[torch.Tensor]:
    """An epoch's rows, batch by batch; a last batch of one image is left out, no batch statistics come of one."""
    batches = list(torch.split(order, recipe.batch_size))
    return batches[:-1] if len(batches) > 1 and len(batches[-1]) == 1 else batches


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


def dataset_fingerprint(dataset: Dataset) -> str:
    """SHA-256 over the images, in order, and their labels, in hex."""
    digest = hashlib.sha256(batch_digest(image_digests(dataset.images_nhwc)).encode())
    digest.update(dataset.truth_n.astype("<i8").tobytes())
    return digest.hexdigest()


def _record(order: TrainingOrder, recipe: Recipe, seconds: float) -> TrainingTable:
    return TrainingTable(
        command=order.command,
        seed=order.seed,
        device=order.device,
        threads=recipe.threads,
        epochs=recipe.epochs,
        batch_size=recipe.batch_size,
        learning_rate=recipe.learning_rate,
        precision=recipe.precision,
        seconds=round(seconds, 1),
        versions={package: version(package) for package in ("torch", "numpy")},
    )
