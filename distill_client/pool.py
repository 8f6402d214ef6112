"""The few real images a run starts from, drawn from a data set's training split."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from distill_client.config import PoolConfig
from distill_client.errors import ConfigError
from shared.datasets import Dataset
from shared.wire.images import image_digests


@dataclass(frozen=True)
class Pool:
    """images_nhwc uint8 N x H x W x C, all distinct, in random order.

    truth_n int64 is for the student-alone baseline only: the method itself never sees a true label.
    """

    images_nhwc: NDArray[np.uint8]
    truth_n: NDArray[np.int64]
    class_names: tuple[str, ...]


def draw_pool(config: PoolConfig, dataset: Dataset, forbidden: frozenset[bytes], rng: np.random.Generator) -> Pool:
    """Draw ``config.images`` distinct images whose digests are not in ``forbidden`` (the test set's).

    Raises ConfigError when the data set does not hold that many.
    """
    usable = _distinct(dataset.images_nhwc, forbidden)
    if config.balanced:
        chosen = _draw_balanced(config.images, usable, dataset, rng)
    else:
        _require(config.images, len(usable), dataset, "distinct images outside the test set")
        chosen = rng.choice(usable, config.images, replace=False)
    return Pool(dataset.images_nhwc[chosen], dataset.truth_n[chosen], dataset.class_names)


def _distinct(images_nhwc: NDArray[np.uint8], forbidden: frozenset[bytes]) -> NDArray[np.int64]:
    """Index of the first copy of every image that may be used."""
    first = {digest: index for index, digest in reversed(list(enumerate(image_digests(images_nhwc))))}
    return np.array(sorted(index for digest, index in first.items() if digest not in forbidden), dtype=np.int64)


def _draw_balanced(
    wanted: int, usable: NDArray[np.int64], dataset: Dataset, rng: np.random.Generator
) -> NDArray[np.int64]:
    """Equal numbers per true class (FS-BBT section 4.1); classes chosen at random get one of the remainder each."""
    classes = len(dataset.class_names)
    per_class = [usable[dataset.truth_n[usable] == label] for label in range(classes)]
    smallest = min(len(members) for members in per_class)
    _require(wanted, classes * smallest, dataset, "class-balanced, distinct images outside the test set")
    quotas = np.full(classes, wanted // classes)
    quotas[rng.permutation(classes)[: wanted % classes]] += 1
    chosen = [rng.choice(members, quota, replace=False) for members, quota in zip(per_class, quotas, strict=True)]
    return rng.permutation(np.concatenate(chosen))


def _require(wanted: int, available: int, dataset: Dataset, what: str) -> None:
    if wanted > available:
        raise ConfigError(
            f"pool.images is {wanted}; at most {available} are to be had: "
            f"{dataset.name} ({dataset.split}) holds that many {what}"
        )
