"""Make a teacher: train it on a labelled data set, measure it once, and write the bundle.

The last epoch's weights are kept whatever they are worth; the test split is looked at once, after it. A training that
is killed goes on from its last whole epoch when the same command is given again.
"""

import tempfile
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import torch
from torch import nn

from shared.datasets import Skipped, Split
from shared.networks.precision import why_not_bfloat16
from teacher_server.teachers.bundle import Bundle, choose_device, require_writable, serialise_weights, write_bundle
from teacher_server.teachers.manifest import BundleManifest, MeasuredTable, NetworkTable, TrainingTable
from teacher_server.training.checkpoint import Checkpoint
from teacher_server.training.fitting import Progress, fresh_network, measure_accuracy, train_teacher
from teacher_server.training.order import TrainingOrder, dataset_fingerprint, input_of, load_splits, require_fields
from teacher_server.training.recipes import Recipe


def train_and_write_bundle(
    order: TrainingOrder,
    folder: Path,
    *,
    progress: Progress | None = None,
    skipped: Callable[[Split, tuple[Skipped, ...]], None] | None = None,
    warn: Callable[[str], None] | None = None,
    overwrite: bool = False,
) -> Bundle:
    """Train as ordered, measure once on the test split, and write the bundle; nothing is written before the end.

    ``skipped`` hears of a folder's files that could not be read, ``warn`` what takes longer than it need. Until the
    end a checkpoint lies beside ``folder``, from which the same order goes on. Raises ValueError for an order that
    cannot be carried out, DatasetUnavailable, and BundleError when ``folder`` exists (before any training) and
    ``overwrite`` is false.
    """
    recipe, device = order.recipe(), choose_device(order.device)
    require_fields(order)
    require_writable(folder, overwrite=overwrite)
    train, test = load_splits(order)
    for dataset in (train, test):
        if skipped and dataset.skipped:
            skipped(dataset.split, dataset.skipped)
    checkpoint = Checkpoint.beside(folder, repr(recipe), order.network, str(order.seed), dataset_fingerprint(train))
    _require_room(folder.parent)
    if warn and recipe.precision == "bfloat16":
        _warn_of_bfloat16(fresh_network(order.network, train, order.seed), device, warn)
    generator = torch.Generator(device).manual_seed(order.seed)
    network, seconds = train_teacher(
        train, order.network, recipe, generator, progress=progress, checkpoint=checkpoint
    )
    weights, weights_table = serialise_weights(network)
    manifest = BundleManifest(
        name=order.bundle_name,
        version=order.version,
        classes=train.class_names,
        input=input_of(train, "exact" if order.size is None else order.resize),
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


def _warn_of_bfloat16(network: nn.Module, device: torch.device, warn: Callable[[str], None]) -> None:
    """It is ordered, and so it is done: a bundle is made again by its own recipe."""
    if why_not := why_not_bfloat16(network, device):
        warn(f"precision bfloat16 takes longer here than float32, the default: {why_not}")


def _require_room(folder: Path) -> None:
    """Make the folder that checkpoints and bundle go into, and write to it now rather than after hours of training.

    Raises ValueError when that cannot be done.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise ValueError(f"out: nothing can be written to {folder} ({error.strerror})") from error


def _record(order: TrainingOrder, recipe: Recipe, seconds: float) -> TrainingTable:
    return TrainingTable(
        command=order.command,
        seed=order.seed,
        device=order.device,
        threads=recipe.threads,
        epochs=recipe.epochs,
        batch_size=recipe.batch_size,
        learning_rate=recipe.learning_rate,
        schedule=recipe.schedule,
        precision=recipe.precision,
        seconds=round(seconds, 1),
        versions={package: version(package) for package in ("torch", "numpy")},
    )
