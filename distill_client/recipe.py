"""Our method's settings, as a function of the pictures and the answers bought: what `distill init` writes.

Three recipes, chosen on held-out agreement with a teacher (docs/results.md has what they give): of grey pictures for
LeNet5 on Fashion-MNIST, of written characters for LeNet5 on MNIST, of colour pictures for AlexNet-half on CIFAR-10.
For other students they are a start. ``configs/paper/*/ours*.toml`` of these data sets are these very settings.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from distill_client.config import Augmentation, AugmentationConfig, TrainingConfig, ViewsConfig

BATCH_SIZE = 256
LEARNING_RATE = 0.02
WARMUP_STEPS = 200
AVERAGING_DECAY = 0.999
# Of each batch: blends of bought images, with interpolated answers.
BLENDED_FRACTION = 0.5
# Up to so many answers, and so many for each real image, are best bought for real images that are transformed but not
# mixed. The real ones are learnt much more often than those, and a student turns, shifts and perhaps mirrors them
# alone: an answer that was bought for a transformed image is for its very pixels. More are all learnt as they are.
FEW_ANSWERS = 20_000
FEW_PER_REAL_IMAGE = 20
FEW_ANSWERS_POOL_REPEATS = 8
# Of colour pictures no more than these were tried so: 2.1 for each, and from 21 on they are mixed.
FEW_PER_REAL_IMAGE_IN_COLOUR = 3
# Of what is written as many as there may be are learnt so, the real ones less often.
CHARACTERS_POOL_REPEATS = 4


@dataclass(frozen=True)
class Recipe:
    """How what is bought beside the pool is made, how it is varied at no query, and how long it is learnt."""

    views: ViewsConfig
    augmentation: Augmentation
    pool_repeats: int
    variations: AugmentationConfig
    training: TrainingConfig


def recipe_for(answers: int, pool_images: int, classes: Sequence[str], *, colour: bool) -> Recipe:
    """The settings for so many ``answers``, the pool's included, from a teacher of these class names."""
    flip = may_face_either_way(classes)
    if colour:
        few = are_few(answers, pool_images, per_real_image=FEW_PER_REAL_IMAGE_IN_COLOUR)
        return Recipe(
            views=ViewsConfig(least_share=1.0 if few else 0.5, shift_fraction=0.1, flip=flip),
            augmentation="combination",
            pool_repeats=FEW_ANSWERS_POOL_REPEATS if few else 1,
            variations=AugmentationConfig(
                rotate_degrees=0,
                shift_fraction=0.1,
                flip=flip,
                real_alone=few,
                blended_fraction=BLENDED_FRACTION,
            ),
            # Networks that look at colours have matrices large enough for units that multiply in bfloat16.
            training=_training(answers, passes=50, images_least=2_000_000, weight_decay=0.2, precision="bfloat16"),
        )
    written = are_characters(classes)
    few = are_few(answers, pool_images)
    variations = AugmentationConfig(
        rotate_degrees=10.0 if written else 5.0,
        shift_fraction=0.08 if written else 0.04,
        flip=flip,
        real_alone=few or written,
        blended_fraction=BLENDED_FRACTION,
    )
    if few:
        return Recipe(
            views=_views_of_characters(elastic_fraction=0.0) if written else ViewsConfig(least_share=1.0, flip=flip),
            augmentation="combination",
            pool_repeats=FEW_ANSWERS_POOL_REPEATS,
            variations=variations,
            training=_training(answers, passes=30, images_least=1_500_000, weight_decay=0.5),
        )
    return Recipe(
        views=_views_of_characters(elastic_fraction=0.12) if written else _mixed_views(flip=flip),
        augmentation="combination" if written else "mixup",
        pool_repeats=CHARACTERS_POOL_REPEATS if written else 1,
        variations=variations,
        training=_training(answers, passes=90, images_least=4_500_000, weight_decay=0.2),
    )


def _mixed_views(*, flip: bool) -> ViewsConfig:
    """What is mixed is turned, shifted, scaled and sheared half as much as what is not, or less."""
    return ViewsConfig(
        least_share=0.5, rotate_degrees=4.0, shift_fraction=0.03, scale_fraction=0.06, shear=0.04, flip=flip
    )


def _views_of_characters(*, elastic_fraction: float) -> ViewsConfig:
    """Not mixed, turned and sheared more than what stands straight, and bent as another hand would write it."""
    return ViewsConfig(
        least_share=1.0,
        rotate_degrees=12.0,
        shift_fraction=0.08,
        scale_fraction=0.12,
        shear=0.12,
        elastic_fraction=elastic_fraction,
    )


def are_few(answers: int, pool_images: int, per_real_image: int = FEW_PER_REAL_IMAGE) -> bool:
    """Whether so many answers, the pool's included, are too few beside the real images to be spent on mixing them."""
    return answers <= min(FEW_ANSWERS, per_real_image * pool_images)


def _training(
    answers: int,
    *,
    passes: int,
    images_least: int,
    weight_decay: float,
    precision: Literal["float32", "bfloat16"] = "float32",
) -> TrainingConfig:
    """Each answer is learnt ``passes`` times, and no training sees fewer than ``images_least`` images.

    A matrix that loses a part of itself in each step stays small, and what it computes smooth: the more so, the fewer
    the answers.
    """
    return TrainingConfig(
        batch_size=BATCH_SIZE,
        steps=math.ceil(max(images_least, passes * answers) / BATCH_SIZE),
        optimiser="muon",
        learning_rate=LEARNING_RATE,
        weight_decay=weight_decay,
        warmup_steps=WARMUP_STEPS,
        decay="cosine",
        averaging_decay=AVERAGING_DECAY,
        precision=precision,
    )


def are_characters(classes: Sequence[str]) -> bool:
    """Whether every class is named by one character: digits and letters."""
    return all(len(name.strip()) == 1 for name in classes)


def may_face_either_way(classes: Sequence[str]) -> bool:
    """Whether things of these names are still the same in a mirror: not digits, letters, or what has a side."""
    words = {word for name in classes for word in name.lower().replace("-", " ").replace("_", " ").split()}
    return not any(len(name.strip()) == 1 for name in classes) and not words & {"left", "right"}
