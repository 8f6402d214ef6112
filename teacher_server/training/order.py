"""What to train, on which images, by which recipe; whatever cannot be carried out is refused before any training."""

import hashlib
import re
from dataclasses import dataclass, replace
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from shared.datasets import FOLDER_PREFIX, Dataset, load_dataset
from shared.wire.contracts import Resize
from shared.wire.images import batch_digest, image_digests
from teacher_server.teachers.manifest import Classes, Command, InputTable, Name, Version
from teacher_server.training.recipes import PRECISIONS, SCHEDULES, Precision, Recipe, Schedule, recipe_for


@dataclass(frozen=True)
class TrainingOrder:
    """What to train. An empty ``name`` stands for ``DATASET-NETWORK``, None for the recipe's own.
    ``size`` (height, width, channels) is what images of another size are brought to by the rule ``resize``, which the
    bundle then declares for picture files that are sent to it; None keeps the data set's own size, exactly.

    ``command`` is recorded in the bundle for whoever wants to make it again.
    """

    dataset: str
    network: str
    name: str = ""
    version: str = "1"
    seed: int = 1
    device: str = "cpu"
    epochs: int | None = None
    schedule: Schedule | None = None
    precision: Precision = "float32"
    threads: int | None = None
    size: tuple[int, int, int] | None = None
    resize: Resize = "crop"
    command: str = "train_and_write_bundle"

    @property
    def bundle_name(self) -> str:
        """The teacher's name in the bundle."""
        folder = self.dataset.removeprefix(FOLDER_PREFIX)
        dataset = self.dataset if folder == self.dataset else Path(folder).resolve().name
        plain = re.sub(r"[^a-z0-9._-]+", "-", f"{dataset}-{self.network}".lower())
        return self.name or plain.lstrip("-._")[:64]

    def recipe(self) -> Recipe:
        """The data set's recipe with what this order changes in it; raises ValueError for what cannot be."""
        recipe = replace(recipe_for(self.dataset), precision=self.precision)
        if self.precision not in PRECISIONS:
            raise ValueError(f"precision is {self.precision!r}; allowed are {', '.join(PRECISIONS)}")
        for field, value in (("epochs", self.epochs), ("threads", self.threads)):
            if value is not None and value < 1:
                raise ValueError(f"{field} is {value}; allowed is 1 or more")
        if self.schedule is not None and self.schedule not in SCHEDULES:
            raise ValueError(f"schedule is {self.schedule!r}; allowed are {', '.join(SCHEDULES)}")
        return replace(
            recipe,
            epochs=self.epochs or recipe.epochs,
            schedule=self.schedule or recipe.schedule,
            threads=self.threads or recipe.threads,
        )


def require_fields(order: TrainingOrder) -> None:
    """Raise ValueError for what the bundle's manifest would refuse, before any training rather than after it."""
    for field, value, allowed in (
        ("name", order.bundle_name, Name),
        ("version", order.version, Version),
        ("command", order.command, Command),
    ):
        try:
            TypeAdapter(allowed).validate_python(value)
        except ValidationError as error:
            raise ValueError(f"{field} is {value!r}: {error.errors()[0]['msg']}") from error


def load_splits(order: TrainingOrder) -> tuple[Dataset, Dataset]:
    """The order's training and test split, at its size.

    Raises ValueError when they do not belong together, or when no teacher may have their classes.
    """
    train = load_dataset(order.dataset, "train", size=order.size, resize=order.resize)
    test = load_dataset(order.dataset, "test", size=train.images_nhwc.shape[1:], resize=order.resize)
    if test.class_names != train.class_names:
        raise ValueError(f"data set {order.dataset}: test has classes {test.class_names}, train {train.class_names}")
    try:
        TypeAdapter(Classes).validate_python(train.class_names)
    except ValidationError as error:
        faults = "; ".join(f"{fault['msg']} (given: {fault['input']!r})" for fault in error.errors())
        raise ValueError(f"data set {order.dataset}: its classes cannot be a teacher's: {faults}") from error
    return train, test


def input_of(dataset: Dataset, resize: Resize = "exact") -> InputTable:
    """The data set's images scaled to 0..1 and no further, as the paper does."""
    _, height, width, channels = dataset.images_nhwc.shape
    fields = {"height": height, "width": width, "channels": channels, "resize": resize}
    return InputTable.model_validate(fields | {"mean": [0.0] * channels, "std": [1.0] * channels})


def dataset_fingerprint(dataset: Dataset) -> str:
    """SHA-256 over the images, in order, and their labels, in hex."""
    digest = hashlib.sha256(batch_digest(image_digests(dataset.images_nhwc)).encode())
    digest.update(dataset.truth_n.astype("<i8").tobytes())
    return digest.hexdigest()
