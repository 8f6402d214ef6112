"""What accuracy a plan may expect: from the curves that the benchmark measured, and only where one is comparable.

``measured_curves.json`` holds them (``benchmarks/reproduction/expectations.py`` makes it of the committed results). A
plan is comparable with a curve of the same method, network, optimiser and disclosure when its pool and its training
are at most twice as large or as small as those that were measured with so many answers. On the same data set the
accuracy itself is told; on others of the same image size and number of classes only what part of the teacher's
accuracy was reached.

Where n runs that differ by their seed alone have the mean m, one run more lies within

    m -+ t s sqrt(1 + 1 / n)

nineteen times in twenty, if accuracies are normally distributed: a prediction interval. s is the deviation between
seeds, pooled over the curve's points, and t is of Student's distribution with as many degrees of freedom as s has. Of
fewer than three runs the mean alone is told. Nothing here knows what another teacher, or a pool that is not balanced
by class, would change: that they differ is told beside it.

Runs that buy the pool's answers alone, varied and learnt like ours, are a curve too: what anything else has to beat.
"""

import json
import math
import statistics
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from distill_client.config import RunConfig
from shared.counting import counted

TABLE = Path(__file__).with_name("measured_curves.json")
# The ``method`` of a curve of runs that buy no synthetic image.
POOL_ALONE = "pool-alone"
_FACTOR_MOST = 2.0
_SEEDS_LEAST = 3
# Student's t that 2.5 % lie above, for 2 degrees of freedom and more; the last stands for all that follow.
_T_975 = (4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228)
# Teachers of one data set whose test accuracies differ by more are not taken for alike.
_TEACHERS_DIFFER = 0.01


class _Row(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Point(_Row):
    """What so many answers gave: the mean of ``seeds`` runs. ``samples``: what ``samples_of`` says of them."""

    answers: int = Field(gt=0)
    pool_images: int = Field(gt=0)
    samples: int = Field(gt=0)
    accuracy: float = Field(ge=0, le=1)
    seeds: int = Field(gt=0)


@dataclass(frozen=True)
class _Found:
    """The mean of at least ``seeds`` runs, and the least and the most of one more: None where these are too few."""

    mean: float
    band: tuple[float, float] | None
    seeds: int

    def part_of(self, accuracy: float) -> "_Found":
        """The same as parts of a teacher's accuracy."""
        band = self.band and (self.band[0] / accuracy, self.band[1] / accuracy)
        return _Found(self.mean / accuracy, band, self.seeds)


class Curve(_Row):
    """Accuracy against answers bought, in their order; ``deviation`` between seeds is pooled over all points."""

    dataset: str
    image: str
    classes: int
    method: str
    student: str
    optimiser: str = "adam"
    disclosure: str
    teacher_accuracy: float
    deviation: float
    points: tuple[Point, ...]

    def at(self, config: RunConfig, answers: int) -> _Found | None:
        """What a run of ``config`` may expect; None where nothing like it was measured."""
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
        mean, seeds = between(before.accuracy, after.accuracy), min(before.seeds, after.seeds)
        return _Found(mean, self._band(mean, seeds), seeds)

    def _band(self, mean: float, seeds: int) -> tuple[float, float] | None:
        """The formula above."""
        if seeds < _SEEDS_LEAST:
            return None
        freedom = sum(point.seeds - 1 for point in self.points)
        reach = _T_975[min(freedom, len(_T_975) + 1) - 2] * self.deviation * math.sqrt(1 + 1 / seeds)
        return max(0.0, mean - reach), min(1.0, mean + reach)

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
    """Fractions of the test set, or of the teacher's accuracy; whose runs say so; and in what this run differs.

    ``band`` is the least and the most, None where ``seeds``, the fewest that a point has, are too few for one.
    """

    mean: float
    band: tuple[float, float] | None
    seeds: int
    of: Literal["test set", "teacher's accuracy"]
    measured_on: str
    differences: tuple[str, ...]

    def describe(self) -> str:
        """In words."""
        of_what = "" if self.of == "test set" else " of the teacher's"
        seeds = counted(self.seeds, "seed")
        if self.band is None:
            return f"{self.mean:.1%}{of_what} (mean of {seeds})"
        low, high = self.band
        return f"{low:.1%} to {high:.1%}{of_what} (mean {self.mean:.1%}, of {seeds})"

    def as_json(self) -> dict[str, Any]:
        """For scripts; ``low`` and ``high`` are None where there is no band."""
        low, high = self.band or (None, None)
        fractions = {"low": low, "mean": self.mean, "high": high}
        return {
            **{name: None if value is None else round(value, 4) for name, value in fractions.items()},
            "seeds": self.seeds,
            "of": self.of,
            "measured_on": self.measured_on,
            "differences": list(self.differences),
            "kind": "expectation",
        }


@dataclass(frozen=True)
class KnownTeacher:
    """What is known of the teacher that a plan would ask; ``classes`` is 0 where nobody knows how many there are.

    ``test_accuracy`` is the owner's figure, a fraction; None where none is told.
    """

    image_hwc: tuple[int, ...]
    classes: int
    disclosure: str
    test_accuracy: float | None = None


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
    config: RunConfig, teacher: KnownTeacher, *, answers: int, curves: tuple[Curve, ...] | None = None
) -> Expectation | None:
    """What a run of ``config`` that buys ``answers`` may expect; None where nothing comparable was measured.

    Where nobody knows how many classes there are, only the same data set is comparable.
    """
    pool = config.pool
    if config.synthesis.has_second_pool or (pool.dataset and pool.is_unlabelled):
        return None
    method = config.synthesis.method if config.synthesis.images else POOL_ALONE
    wanted = (method, config.student.network, teacher.disclosure)
    known = measured_curves() if curves is None else curves
    alike = [
        curve
        for curve in known
        if (curve.method, curve.student, curve.disclosure) == wanted
        and (method == POOL_ALONE or curve.optimiser == config.training.optimiser)
    ]
    differences = () if pool.balanced else ("its pool is not balanced by class, as the measured ones were",)
    for curve in alike:
        if curve.dataset == pool.dataset and (found := curve.at(config, answers)):
            differences = (*_of_teachers(teacher.test_accuracy, curve.teacher_accuracy), *differences)
            return Expectation(found.mean, found.band, found.seeds, "test set", _source([curve]), differences)
    if pool.dataset in {curve.dataset for curve in known}:
        return None  # it was measured itself, though not like this
    shape = ("x".join(map(str, teacher.image_hwc)), teacher.classes)
    others = [(curve, curve.at(config, answers)) for curve in alike if (curve.image, curve.classes) == shape]
    parts = [(curve, found.part_of(curve.teacher_accuracy)) for curve, found in others if found is not None]
    if not parts:
        return None
    found = _together([part for _, part in parts])
    source = _source([curve for curve, _ in parts])
    return Expectation(found.mean, found.band, found.seeds, "teacher's accuracy", source, differences)


def expect_of_pool_alone(
    config: RunConfig, teacher: KnownTeacher, *, curves: tuple[Curve, ...] | None = None
) -> Expectation | None:
    """What the same pool's answers may be expected to give when nothing is bought beside them."""
    nothing = config.synthesis.model_copy(update={"images": 0})
    alone = config.model_copy(update={"synthesis": nothing, "budget_images": config.pool.images})
    return expect(alone, teacher, answers=config.pool.images, curves=curves)


def _of_teachers(own: float | None, measured: float) -> tuple[str, ...]:
    """What is to be said of two teachers of one data set; nothing where nobody knows how right this one is."""
    if own is None or abs(own - measured) <= _TEACHERS_DIFFER + 1e-9:
        return ()
    return (f"its teacher's test accuracy is {own:.1%}, the measured one's {measured:.1%}",)


def _together(found: list[_Found]) -> _Found:
    """Of several data sets: the mean over them, and from the least of all to the most; of as few seeds as any has."""
    bands = [one.band for one in found if one.band is not None]
    band = None
    if len(bands) == len(found):
        band = min(low for low, _ in bands), max(high for _, high in bands)
    return _Found(statistics.mean(one.mean for one in found), band, min(one.seeds for one in found))


def _source(curves: list[Curve]) -> str:
    """Where the figures are from."""
    told = [
        f"{curve.dataset}, teacher {curve.teacher_accuracy:.1%}, {_answers_of(curve)} answers" for curve in curves
    ]
    return f"{curves[0].student} by {curves[0].method} on {'; on '.join(told)}"


def _answers_of(curve: Curve) -> str:
    """The fewest and the most."""
    fewest, most = (f"{curve.points[at].answers:,}" for at in (0, -1))
    return fewest if fewest == most else f"{fewest} to {most}"
