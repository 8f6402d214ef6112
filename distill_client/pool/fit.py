"""Whether the teacher's answers to the pool look like answers to images of its own kind; no other data is needed.

Two things are looked at, because each misses what the other sees. A teacher that is asked about other things is often
less sure than it is right on its own test set: the mean probability of the top class estimates its accuracy on images
of its own kind, mostly from above (Guo et al. 2017; Guillory et al. 2021 predict accuracy by it). A teacher that is
sure of everything still crowds other things into few of its classes, which labels alone show as well. What the
thresholds let pass and what they stop is measured by ``benchmarks/pool_fit.py``; docs/client.md has the figures.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shared.wire.contracts import TeacherCard
from shared.wire.disclosure import Disclosure

# Below the accuracy on the owner's test set by more than this, and by more than chance, the teacher is unsure. A
# teacher trained with smoothed labels is less sure than it is right by a few points, whatever it is asked.
CONFIDENCE_MARGIN = 0.10
# Where the owner tells no accuracy: a teacher that is calibrated would be wrong more often than right.
CONFIDENCE_LEAST = 0.5
# Of the teacher's classes, as many as would be named as often if all were named alike.
CLASSES_LEAST = 0.6
# A count of classes is judged from five images per class on, the usual least for counts in cells.
IMAGES_PER_CLASS = 5
STANDARD_ERRORS = 2.0
REJECTED_MOST = 0.5


@dataclass(frozen=True)
class PoolFit:
    """What the answers to a pool say of it.

    ``images`` answered and ``rejected``; ``confidence``: the mean probability of the top class, None where answers do
    not tell the teacher's own; ``teacher_accuracy`` as its owner measured it. ``effective_classes`` of ``classes``:
    the exponential of the entropy of the top classes' counts, so many classes named equally often; None for too few
    images. ``faults``: what does not fit, in sentences; none where nothing is wrong.
    """

    images: int
    rejected: int
    confidence: float | None
    teacher_accuracy: float | None
    effective_classes: float | None
    classes: int
    faults: tuple[str, ...]

    def as_summary(self) -> dict[str, Any]:
        """The same for summary.json."""
        return {
            "images": self.images,
            "rejected": self.rejected,
            "mean_confidence": None if self.confidence is None else round(self.confidence, 4),
            "teacher_accuracy": self.teacher_accuracy,
            "effective_classes": None if self.effective_classes is None else round(self.effective_classes, 2),
            "classes": self.classes,
            "warnings": list(self.faults),
        }


def measure_fit(values: NDArray[np.float32] | NDArray[np.int64], card: TeacherCard) -> PoolFit:
    """Judge answers as they were disclosed: float32 N x K with NaN where nothing is, or int64 labels N.

    A row of NaN alone, or the label -1, was rejected. At least one answer must not be.
    """
    answered_n = values >= 0 if values.ndim == 1 else ~np.isnan(values).all(axis=1)
    answers = values[answered_n]
    rejected = len(values) - len(answers)
    labels_n = answers if answers.ndim == 1 else np.nan_to_num(answers, nan=-1.0).argmax(axis=1)
    counts_k = np.bincount(labels_n.astype(np.int64), minlength=len(card.classes))
    confidence, told = _confidence(answers, card)
    is_enough = len(answers) >= IMAGES_PER_CLASS * len(card.classes)
    effective = effective_classes(counts_k) if is_enough else None
    faults = []
    if rejected > REJECTED_MOST * len(values):
        faults.append(f"{rejected:,} of {len(values):,} answers name none of the run's classes")
    if told:
        faults.append(told)
    if effective is not None and effective < CLASSES_LEAST * len(card.classes):
        faults.append(_unevenness(effective, counts_k, card.classes))
    accuracy, classes = card.test_accuracy, len(card.classes)
    return PoolFit(len(answers), rejected, confidence, accuracy, effective, classes, tuple(faults))


def effective_classes(counts_k: NDArray[np.int64]) -> float:
    """exp of the entropy of counts, int64 K: so many classes, if all were named equally often; at most K.

    Few images name too few classes by chance; the entropy has Miller's correction for that (Miller 1955).
    """
    named_k = counts_k[counts_k > 0] / counts_k.sum()
    entropy = -float((named_k * np.log(named_k)).sum()) + (len(named_k) - 1) / (2 * int(counts_k.sum()))
    return min(math.exp(entropy), float(len(counts_k)))


def _confidence(answers: NDArray[np.float32] | NDArray[np.int64], card: TeacherCard) -> tuple[float | None, str]:
    """The mean probability of the top class, and what is wrong with it, if anything.

    None for labels, and for probabilities that a policy has softened or disturbed: they are not the teacher's own.
    """
    disclosed = Disclosure.parse(card.disclosure)
    if answers.ndim == 1 or disclosed.temperature != 1 or disclosed.noise:
        return None, ""
    top_n = np.nanmax(answers.astype(np.float64), axis=1)
    mean = float(top_n.mean())
    by_chance = STANDARD_ERRORS * float(top_n.std()) / math.sqrt(len(top_n))
    accuracy = card.test_accuracy
    if accuracy is not None and mean + by_chance < accuracy - CONFIDENCE_MARGIN:
        return mean, (
            f"the teacher is less sure of these images than it is right on its own test set: its top class has a "
            f"probability of {mean:.1%} on average, its accuracy is {accuracy:.1%}"
        )
    if accuracy is None and mean + by_chance < CONFIDENCE_LEAST:
        told = f"its top class has a probability of {mean:.1%} on average"
        return mean, f"the teacher is unsure of these images: {told}"
    return mean, ""


def _unevenness(effective: float, counts_k: NDArray[np.int64], classes: list[str]) -> str:
    share_k = counts_k / counts_k.sum()
    most = int(share_k.argmax())
    rare = int((share_k < 0.1 / len(classes)).sum())
    seldom = f"; {rare} less often than a tenth of an even share" if rare else ""
    return (
        f"the teacher names its {len(classes)} classes as unevenly as if there were {effective:.1f} of them: "
        f"{share_k[most]:.0%} of these images are {classes[most]!r}{seldom}"
    )
