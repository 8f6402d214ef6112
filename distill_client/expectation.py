"""What accuracy a plan may expect: from the curves that the benchmark measured, and only where one is comparable.

``measured_curves.json`` holds them (``benchmarks/expectations.py`` makes it of the committed results). A plan is
comparable with a curve of the same method, network and disclosure when its pool and its training are at most twice
as large or as small as those that were measured with so many answers. On the same data set the accuracy itself is
told; on others of the same image size and number of classes only what part of the teacher's accuracy was reached.
"""

import json
import math
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from distill_client.config import RunConfig

TABLE = Path(__file__).with_name("measured_curves.json")
_FACTOR_MOST = 2.0
# Of runs under other seeds, about nineteen in twenty lie within so many deviations.
_DEVIATIONS = 2.0


class _Row(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Point(_Row):
    """What so many answers gave: the mean of ``seeds`` runs. ``samples``: what ``samples_of`` says of them."""

    answers: int = Field(gt=0)
    pool_images: int = Field(gt=0)
    samples: int = Field(gt=0)
    accuracy: float = Field(ge=0, le=1)
    seeds: int = Field(gt=0)


class Curve(_Row):
    """Accuracy against answers bought, in their order; ``deviation`` between seeds is pooled over all points."""

    dataset: str
    image: str
    classes: int
    method: str
    student: str
    disclosure: str
    teacher_accuracy: float
    deviation: float
    points: tuple[Point, ...]

    def at(self, config: RunConfig, answers: int) -> tuple[float, float] | None:
        """The least and the most that a run of ``config`` may expect; None where nothing like it was measured."""
        found = self._between(answers)
        if found is None:
            return None
        before, after, part = found

        def between(low: float, high: float) -> float:
            return low + part * (high - low)

        def is_alike(here: int, low: int, high: int) -> bool:
            return abs(math.log(here) - between(math.log(low), math.log(high))) <= math.log(_FACTOR_MOST) + 1e-9

        if not is_alike(config.pool.images, before.pool_images, after.pool_images):
            return None
        if not is_alike(samples_of(config, answers, self.disclosure), before.samples, after.samples):
            return None
        mean = between(before.accuracy, after.accuracy)
        spread = _DEVIATIONS * self.deviation * math.sqrt(1 + 1 / min(before.seeds, after.seeds))
        return max(0.0, mean - spread), min(1.0, mean + spread)

    def _between(self, answers: int) -> tuple[Point, Point, float] | None:
        """The points on either side, and how far it is from one to the other, in log(answers)."""
        for point in self.points:
            if point.answers == answers:
                return point, point, 0.0
        for before, after in zip(self.points, self.points[1:], strict=False):
            if before.answers < answers < after.answers:
                part = math.log(answers / before.answers) / math.log(after.answers / before.answers)
                return before, after, part
        return None


@dataclass(frozen=True)
class Expectation:
    """From ``low`` to ``high``: fractions of the test set, or of the teacher's accuracy; and whose runs say so."""

    low: float
    high: float
    of: Literal["test set", "teacher's accuracy"]
    measured_on: str

    def describe(self) -> str:
        """In words."""
        suffix = "" if self.of == "test set" else " of the teacher's"
        return f"{self.low:.1%} to {self.high:.1%}{suffix}"

    def as_json(self) -> dict[str, Any]:
        """For scripts."""
        fractions = {"low": round(self.low, 4), "high": round(self.high, 4)}
        return {**fractions, "of": self.of, "measured_on": self.measured_on, "kind": "expectation"}


@cache
def measured_curves() -> tuple[Curve, ...]:
    """All that were measured."""
    content = json.loads(TABLE.read_text(encoding="utf-8"))
    return tuple(Curve.model_validate(curve) for curve in content["curves"])


def samples_of(config: RunConfig, answers: int, disclosure: str) -> int:
    """Images that the student's training sees in all, and those of the ensemble that teaches it."""
    training, taught_by = config.training, config.label_only if disclosure == "label" else config.amplification
    each = training.steps * training.batch_size if training.steps else (training.epochs or 0) * answers
    return each * (1 + taught_by.ensemble)


def expect(
    config: RunConfig,
    *,
    answers: int,
    image_hwc: tuple[int, ...],
    classes: int,
    disclosure: str,
    curves: tuple[Curve, ...] | None = None,
) -> Expectation | None:
    """What a run of ``config`` that buys ``answers`` may expect; None where nothing comparable was measured.

    ``classes`` may be 0 where nobody knows how many there are; then only the same data set is comparable.
    """
    pool, method = config.pool, config.synthesis.method
    if config.synthesis.images == 0 or config.synthesis.has_second_pool or (pool.dataset and pool.is_unlabelled):
        return None
    wanted = (method, config.student.network, disclosure)
    known = measured_curves() if curves is None else curves
    alike = [curve for curve in known if (curve.method, curve.student, curve.disclosure) == wanted]
    for curve in alike:
        if curve.dataset == pool.dataset and (band := curve.at(config, answers)):
            return Expectation(*band, "test set", _source([curve]))
    if pool.dataset in {curve.dataset for curve in known}:
        return None  # it was measured itself, though not like this
    shape = ("x".join(map(str, image_hwc)), classes)
    others = [(curve, curve.at(config, answers)) for curve in alike if (curve.image, curve.classes) == shape]
    bands = [(curve, band) for curve, band in others if band is not None]
    if not bands:
        return None
    low = min(band[0] / curve.teacher_accuracy for curve, band in bands)
    high = max(band[1] / curve.teacher_accuracy for curve, band in bands)
    return Expectation(low, high, "teacher's accuracy", _source([curve for curve, _ in bands]))


def _source(curves: list[Curve]) -> str:
    """Where the figures are from."""
    told = [
        f"{curve.dataset}, teacher {curve.teacher_accuracy:.1%}, {curve.points[0].answers:,} to "
        f"{curve.points[-1].answers:,} answers"
        for curve in curves
    ]
    return f"{curves[0].student} by {curves[0].method} on {'; on '.join(told)}"
