"""How each data set's teacher is trained: the FS-BBT paper's settings where it has any, ours where it has none."""

import math
from dataclasses import dataclass
from typing import Literal

Schedule = Literal["constant", "cosine", "steps"]
SCHEDULES: tuple[Schedule, ...] = ("constant", "cosine", "steps")
Precision = Literal["float32", "bfloat16"]
PRECISIONS: tuple[Precision, ...] = ("float32", "bfloat16")


@dataclass(frozen=True)
class Recipe:
    """How to train; the published teachers' pixels are divided by 255 and no more.

    ``schedule`` constant keeps the learning rate, cosine lets it fall to 0 along half a cosine, steps is Keras'
    CIFAR example: x 0.1 after 80 epochs, x 0.01 after 120, x 0.001 after 160, x 0.0005 after 180.
    ``shift_fraction`` moves each image by up to that part of its sides, in whole pixels; ``fill`` says what enters:
    black, or the image's own edge (Keras' default). ``flip`` mirrors every second image, on average.
    ``l2`` is Keras' penalty on the convolutions: l2 times their squared weights is added to the loss.
    ``precision`` bfloat16 computes the network under autocast; weights and optimiser stay float32.
    ``threads`` is of the CPU: small batches gain nothing from a second thread, lose a hundredfold when something else
    wants its core, and give other last digits with it.
    """

    epochs: int
    batch_size: int = 64
    learning_rate: float = 1e-3
    schedule: Schedule = "constant"
    shift_fraction: float = 0.0
    fill: Literal["black", "edge"] = "black"
    flip: bool = False
    l2: float = 0.0
    precision: Precision = "float32"
    threads: int = 1

    def learning_rate_at(self, step: int, steps_in_all: int) -> float:
        """The learning rate of a step; ``step`` counts from 0."""
        if self.schedule == "constant":
            return self.learning_rate
        progress = step / steps_in_all
        if self.schedule == "cosine":
            return self.learning_rate * (1 + math.cos(math.pi * progress)) / 2
        epoch = int(progress * self.epochs)
        # the published rule says "epoch > 80" and counts from 0, so the 82nd pass is the first slower one
        for after, factor in ((180, 0.5e-3), (160, 1e-3), (120, 1e-2), (80, 1e-1)):
            if epoch > after:
                return self.learning_rate * factor
        return self.learning_rate


# What a folder of somebody's own pictures is trained with: no published setting exists, so one that does no harm.
FOLDER_RECIPE = Recipe(epochs=30, schedule="cosine", shift_fraction=0.1, fill="edge", flip=True)

# The published teachers; digits and the ten classes of Tiny-ImageNet are ours.
RECIPES = {
    "fashion-mnist": Recipe(epochs=20),
    "mnist": Recipe(epochs=20),
    "cifar10": Recipe(epochs=50, batch_size=512, shift_fraction=0.1, fill="edge", flip=True),
    "cifar100": Recipe(
        epochs=200, batch_size=32, schedule="steps", shift_fraction=0.1, fill="edge", flip=True, l2=1e-4
    ),
    "tinyimagenet10": FOLDER_RECIPE,
    "digits": Recipe(epochs=40, schedule="cosine", shift_fraction=2 / 28),
}


def recipe_for(dataset: str) -> Recipe:
    """The data set's recipe; raises ValueError when there is none, saying what is allowed."""
    if dataset.startswith("folder:"):
        return FOLDER_RECIPE
    if dataset not in RECIPES:
        raise ValueError(f"data set is {dataset!r}; teachers can be trained on {', '.join(RECIPES)} and folder:PATH")
    return RECIPES[dataset]
