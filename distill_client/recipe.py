"""Our method's settings as a function of the answers bought: what `distill init` writes, and where it is tuned.

Chosen for LeNet5 on Fashion-MNIST (docs/results.md has what they give); for other students they are a start.
"""

import math
from collections.abc import Sequence

from distill_client.config import Augmentation, AugmentationConfig, EnsembleConfig, TrainingConfig, ViewsConfig

BATCH_SIZE = 256
LEARNING_RATE = 5e-3
WARMUP_STEPS = 200
AVERAGING_DECAY = 0.999
# Images that a training sees, each bought one several times: so many passes, and never fewer images than these.
PASSES = 30
SAMPLES_LEAST = 600_000
# An ensemble of students learns the answers first, and teaches the last one about blends that nobody asked about.
AMPLIFICATION = EnsembleConfig(ensemble=3, blended_fraction=0.5)
# The ensemble's members, and a student without one, learn blends of bought images in a part of each batch. Where few
# are bought, they are turned, shifted and perhaps mirrored too: with 2,500 answers that gains, with 5,000 it was not
# seen to.
BLENDED_FRACTION = 0.5
FEW_ANSWERS = 3_000
ROTATE_DEGREES = 5.0
SHIFT_FRACTION = 0.04


def training_for(answers: int) -> TrainingConfig:
    """The schedule for a student of so many bought answers, and for each member of its ensemble."""
    samples = max(SAMPLES_LEAST, PASSES * answers)
    return TrainingConfig(
        batch_size=BATCH_SIZE,
        steps=math.ceil(samples / BATCH_SIZE),
        learning_rate=LEARNING_RATE,
        warmup_steps=WARMUP_STEPS,
        decay="cosine",
        averaging_decay=AVERAGING_DECAY,
    )


def augmentation_for(answers: int) -> Augmentation:
    """How bought images are varied in training, at no query."""
    return "combination" if answers <= FEW_ANSWERS else "mixup"


def variations_for(classes: Sequence[str]) -> AugmentationConfig:
    """The bounds of these variations."""
    return AugmentationConfig(
        rotate_degrees=ROTATE_DEGREES,
        shift_fraction=SHIFT_FRACTION,
        flip=may_face_either_way(classes),
        blended_fraction=BLENDED_FRACTION,
    )


def views_for(classes: Sequence[str]) -> ViewsConfig:
    """How the pool's images are transformed before they are blended."""
    return ViewsConfig(flip=may_face_either_way(classes))


def may_face_either_way(classes: Sequence[str]) -> bool:
    """Whether things of these names are still the same in a mirror: not digits, letters, or what has a side."""
    words = {word for name in classes for word in name.lower().replace("-", " ").replace("_", " ").split()}
    return not any(len(name.strip()) == 1 for name in classes) and not words & {"left", "right"}
