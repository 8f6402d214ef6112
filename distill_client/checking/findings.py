"""What was observed of a teacher, judged: good, worth knowing, or a reason not to use it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from distill_client.checking.probing import ALONE, IMAGES, Observed
from distill_client.pool import measure_fit
from distill_client.teachers.protocol import Capabilities
from shared.wire.contracts import Disclosure

Verdict = Literal["good", "note", "bad"]
_SAME_MAX, _ALIKE_MAX = 1e-6, 1e-3
_RECKONED = 32


@dataclass(frozen=True)
class Finding:
    """One thing looked at."""

    what: str
    verdict: Verdict
    told: str


def findings(card: Capabilities, seen: Observed, retries: Sequence[str]) -> list[Finding]:
    """Everything that was looked at."""
    return [
        _shape(card, seen),
        _disclosure(card, seen),
        _order(seen),
        _determinism(seen),
        _batches(seen),
        _latency(seen),
        _throttling(retries),
    ]


def _shape(card: Capabilities, seen: Observed) -> Finding:
    told = f"{seen.values.dtype} of shape {list(seen.values.shape)} to {IMAGES} images of {len(card.classes)} classes"
    if seen.images_failed:
        return Finding("shape", "note", f"{told}; {seen.images_failed} images had an error instead of an answer")
    if not seen.together.any(axis=1).all():
        unnamed = int((~seen.together.any(axis=1)).sum())
        return Finding("shape", "note", f"{told}; {unnamed} answers name none of the classes")
    return Finding("shape", "good", told)


def _disclosure(card: Capabilities, seen: Observed) -> Finding:
    if seen.disclosures != {(card.version, card.disclosure)}:
        came = ", ".join(f"version {version} {disclosure}" for version, disclosure in sorted(seen.disclosures))
        return Finding("disclosure", "bad", f"it says version {card.version} {card.disclosure}; answered was {came}")
    disclosed = Disclosure.parse(card.disclosure)
    if disclosed.kind == "label":
        return Finding("disclosure", "good", f"{card.disclosure}: the best class alone")
    named, sums = (seen.together > 0).sum(axis=1), seen.together.sum(axis=1)
    told = (
        f"{card.disclosure}: {_range(named)} of {len(card.classes)} classes with a probability above 0; "
        f"in sum {_range(sums.round(4))}"
    )
    if sums.max() > 1 + _ALIKE_MAX * len(card.classes):
        return Finding("disclosure", "bad", told)
    # Rows in which nothing is given say nothing of how many classes a teacher gives.
    given_n = (~np.isnan(seen.values)).sum(axis=1)
    given_n = given_n[given_n > 0]
    said = len(card.classes) if disclosed.kind == "probabilities" else min(disclosed.k, len(card.classes))
    if len(given_n) and not (given_n == said).all():
        return Finding("disclosure", "note", f"{told}; it says {said} classes, and gives {_range(given_n)}")
    return Finding("disclosure", "good", told)


def _range(numbers: NDArray[Any]) -> str:
    least, most = f"{numbers.min():.4g}", f"{numbers.max():.4g}"
    return least if least == most else f"{least} to {most}"


def _order(seen: Observed) -> Finding:
    """Every image's answer must be nearer to its own other answer than to those of other images."""
    apart = np.abs(seen.together[:, None] - seen.together[None]).max(axis=2)
    if len(np.unique(seen.together.round(3), axis=0)) == 1:
        return Finding("order", "note", "not to be told: all answers are alike")
    distances = np.abs(seen.alone[:, None] - seen.together[None]).max(axis=2)
    backwards = np.abs(seen.reversed_[:, None] - seen.together[None]).max(axis=2)
    own = [(distances[place], place) for place in range(ALONE)]
    own += [(backwards[place], IMAGES - 1 - place) for place in range(IMAGES - 1)]
    strayed = sum(1 for row, place in own if row[place] > row.min() + _SAME_MAX)
    if strayed:
        return Finding("order", "bad", f"{strayed} of {len(own)} images had an answer that is another image's")
    alike = int((apart + np.eye(IMAGES) <= _ALIKE_MAX).any(axis=1).sum())
    less = (
        f"; {alike} of {IMAGES} images have answers like another's, which could stand for each other" if alike else ""
    )
    return Finding("order", "good", f"all {len(own)} answers came back to their images, forwards and backwards{less}")


def _determinism(seen: Observed) -> Finding:
    off = float(np.abs(seen.again[0] - seen.alone[0]).max())
    if off <= _SAME_MAX:
        return Finding("determinism", "good", "the same image asked twice had the same answer")
    return Finding("determinism", "note", f"the same image asked twice had answers that differ by {off:.2g}")


def _batches(seen: Observed) -> Finding:
    forwards = np.abs(seen.alone - seen.together[:ALONE]).max()
    off = float(max(forwards, np.abs(seen.reversed_[::-1] - seen.together[1:]).max()))
    if seen.calls_together == IMAGES:
        return Finding("batch invariance", "good", f"one image a call; several calls at once differ by {off:.2g}")
    told = f"an image alone and in a batch had answers that differ by at most {off:.2g}"
    return Finding("batch invariance", "good" if off <= _ALIKE_MAX else "note", told)


def _latency(seen: Observed) -> Finding:
    one, eight = seen.alone_s, seen.together_s
    many = max(eight, one + (eight - one) * (_RECKONED - 1) / (IMAGES - 1))
    calls = f"in {seen.calls_together} calls at once" if seen.calls_together > 1 else "in one call"
    told = (
        f"1 image {one * 1000:.0f} ms (median of {ALONE + 1} calls), {IMAGES} images {eight * 1000:.0f} ms {calls}; "
        f"{_RECKONED} images about {many * 1000:.0f} ms, reckoned from these two and not measured, for it "
        "would cost too much"
    )
    return Finding("latency", "good", told)


def pool_finding(card: Capabilities, seen: Observed) -> Finding:
    """Whether the teacher seems to know such pictures, as far as eight answers can tell."""
    if not seen.together.any():
        return Finding("pool", "note", "not to be told: no answer names a class")
    fit = measure_fit(seen.values, card)
    if fit.faults:
        return Finding("pool", "note", "; ".join(fit.faults))
    if fit.confidence is None:
        return Finding("pool", "good", "not to be told from these few answers; a run tells it of the whole pool")
    accuracy = "not told" if card.test_accuracy is None else f"{card.test_accuracy:.1%}"
    told = f"its top class has a probability of {fit.confidence:.1%} on average; its accuracy: {accuracy}"
    return Finding("pool", "good", f"{told}; {IMAGES} answers say little, a run tells it of the whole pool")


def _throttling(retries: Sequence[str]) -> Finding:
    if not retries:
        return Finding("throttling", "good", "none in these calls")
    return Finding("throttling", "note", f"asked again {len(retries)} times; the first: {retries[0]}")
