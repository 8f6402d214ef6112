"""Our method's settings as a function of the answers bought: what `distill init` writes, and where it is tuned.

Chosen for LeNet5 on Fashion-MNIST (docs/results.md has what they give); for other students they are a start.
"""

import math
from collections.abc import Sequence

from distill_client.config import Augmentation, EnsembleConfig, TrainingConfig, ViewsConfig

BATCH_SIZE = 256
LEARNING_RATE = 5e-3
WARMUP_STEPS = 200
AVERAGING_DECAY = 0.999
# Few answers are amplified: an ensemble of students learns them first, and teaches the last one about blends that
# nobody asked about. With many more it costs four times the training and gains little.
FEW = 20_000
MEMBERS = 3
# Of each batch, blends of two bought images.
BLENDED_FRACTION = 0.5
# Images that each training sees: of few answers so many in all, of more so many passes.
SAMPLES_OF_FEW = 600_000
PASSES = 60


def training_for(answers: int) -> TrainingConfig:
    """The schedule for a student of so many bought answers, and for each member of its ensemble."""
    samples = SAMPLES_OF_FEW if answers <= FEW else PASSES * answers
    return TrainingConfig(
        batch_size=BATCH_SIZE,
        steps=math.ceil(samples / BATCH_SIZE),
        learning_rate=LEARNING_RATE,
        warmup_steps=WARMUP_STEPS,
        decay="cosine",
        averaging_decay=AVERAGING_DECAY,
    )


def augmentation_for(answers: int) -> Augmentation:
    """What the student sees beside the very images that were bought."""
    return "mixup" if answers <= FEW else "none"


def amplification_for(answers: int) -> EnsembleConfig:
    """The ensemble that labels blends nobody asked about."""
    return EnsembleConfig(ensemble=MEMBERS if answers <= FEW else 0, blended_fraction=BLENDED_FRACTION)


def views_for(classes: Sequence[str]) -> ViewsConfig:
    """How the pool's images are transformed before they are blended."""
    return ViewsConfig(flip=may_face_either_way(classes))


def may_face_either_way(classes: Sequence[str]) -> bool:
    """Whether things of these names are still the same in a mirror: not digits, letters, or what has a side."""
    words = {word for name in classes for word in name.lower().replace("-", " ").replace("_", " ").split()}
    return not any(len(name.strip()) == 1 for name in classes) and not words & {"left", "right"}
