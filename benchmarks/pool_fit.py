"""How well answers tell a pool that does not fit its teacher: `benchmarks/pool_fit.py`.

Our teachers, in process, are asked about images of their own kind, of both splits, and of others; what the client
would say is asked of many pools drawn from the answers: ``distill_client.pool.fit`` has the rule. The last column is
the share of pools that are warned of, first by how sure the teacher is, then by its classes.
"""

import argparse
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from distill_client.pool import PoolFit, measure_fit
from shared.datasets import fit_images, load_dataset
from shared.datasets.dataset import Split
from shared.wire.contracts import InputSpec, TeacherCard, Usage
from shared.wire.images import Images
from teacher_server.teachers.teacher import Teacher, load_teacher

PROJECT = Path(__file__).resolve().parents[1]
ASKED = {
    "fashion-mnist-lenet5": ("fashion-mnist", "mnist", "cifar10", "noise"),
    "cifar10-alexnet": ("cifar10", "tinyimagenet10", "fashion-mnist", "noise"),
    "mnist-lenet5": ("mnist", "digits", "fashion-mnist", "noise"),
}
POOLS = (50, 250, 2_000)
ANSWERS_MOST = 8_000
SPLITS: tuple[Split, ...] = ("train", "test")


def images_of(name: str, split: Split, spec: InputSpec, rng: np.random.Generator) -> Images:
    """At most ANSWERS_MOST images of a split, at the teacher's input."""
    if name == "noise":
        return rng.integers(0, 256, (2_000, spec.height, spec.width, spec.channels), np.uint8)
    images_nhwc = load_dataset(name, split).images_nhwc
    chosen = rng.permutation(len(images_nhwc))[:ANSWERS_MOST]
    return fit_images(images_nhwc[chosen], spec.model_copy(update={"resize": "crop"}))


def card_of(teacher: Teacher) -> TeacherCard:
    """What a key that sees probabilities is told of it."""
    return TeacherCard(
        name=teacher.name,
        version=teacher.version,
        classes=list(teacher.class_names),
        input=teacher.input,
        preprocessing="",
        images_per_request_max=1,
        body_bytes_max=1,
        test_accuracy=teacher.test_accuracy,
        disclosure="probabilities",
        budget=Usage(granted=0, spent=0, remaining=0),
    )


def row(name: str, values_nk: NDArray[np.float32], card: TeacherCard, pool: int, draws: int) -> str:
    """What is told of pools of so many images: means, and how often each fault is."""
    rng = np.random.default_rng(pool)
    fits: list[PoolFit] = []
    for _ in range(draws):
        fits.append(measure_fit(values_nk[rng.choice(len(values_nk), pool, replace=False)], card))
    confidence = np.mean([fit.confidence or np.nan for fit in fits])
    effective = np.mean([fit.effective_classes or np.nan for fit in fits])
    unsure = np.mean([any("sure" in fault for fault in fit.faults) for fit in fits])
    uneven = np.mean([any("unevenly" in fault for fault in fit.faults) for fit in fits])
    return f"  {name:<22} {pool:>6,} {confidence:>11.1%} {effective:>8.2f}      {unsure:>6.1%} {uneven:>6.1%}"


def main() -> None:
    """Print a table for each teacher."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", type=int, default=500, help="pools drawn for each row")
    draws = parser.parse_args().draws
    for bundle, names in ASKED.items():
        teacher = load_teacher(PROJECT / "bundles" / bundle, device="cpu")
        card = card_of(teacher)
        print(f"{bundle}: {len(card.classes)} classes, accuracy {teacher.test_accuracy:.2%}; pools of")
        print(f"  {'':<22} {'images':>6} {'top class':>11} {'classes':>8}      {'unsure':>6} {'uneven':>6}")
        for name in names:
            for split in SPLITS[:1] if name == "noise" else SPLITS:
                images_nhwc = images_of(name, split, card.input, np.random.default_rng(1))
                values_nk = teacher.classifier.probabilities(images_nhwc)
                for pool in POOLS:
                    if pool <= len(values_nk):
                        print(row(f"{name} {split}", values_nk, card, pool, draws))


if __name__ == "__main__":
    main()
