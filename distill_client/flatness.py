"""Whether another round of buying still pays, and what the answers that were not bought would probably have added.

After every round a student is trained on what was bought so far, but for some of the real images and the views of
them, and all students there are name the classes of these real images. So what a round added is a difference on equal
images, which are as new to every student as those that the last one is for.

What more answers add is read off a power law, the usual shape of a learning curve (Hestness et al., "Deep learning
scaling is predictable, empirically", 2017): a student of n answers disagrees with its teacher on a fraction

    e(n) = b n^-a      a line in log e over log n, fitted to the k students by least squares

and with N answers instead of n it would agree on e(n) (1 - (n / N)^a) more. The exponent's standard error is that of
the slope: its residuals' deviation, but no less than what counting so few images leaves open. The interval is 90 % of
Student's distribution with k - 2 degrees of freedom (with two students: one), and its lower end is never below zero.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from distill_client.config import BudgetConfig
from distill_client.durable import write_durably

# Student's t that 5 % lie above, for 1 degree of freedom and more; the last stands for all that follow.
_T_95 = (6.314, 2.920, 2.353, 2.132, 2.015, 1.943, 1.895, 1.860, 1.833, 1.812)


class Measurement(BaseModel):
    """Taken after a round on ``held_out`` real images: one place per student, from the pool's own to the round's.

    ``bought`` answers there were when each was trained; on ``agreeing`` of these images it names the teacher's
    class. The round's student does so on ``gained`` that the one before had otherwise, and not on ``lost``.
    """

    model_config = ConfigDict(frozen=True)

    bought: tuple[int, ...] = Field(min_length=2)
    held_out: int = Field(ge=0)
    agreeing: tuple[int, ...] = Field(min_length=2)
    gained: int = Field(ge=0)
    lost: int = Field(ge=0)

    @property
    def round(self) -> int:
        """Which round it follows, from 1 on."""
        return len(self.bought) - 1

    @property
    def agreements(self) -> list[float]:
        """Each student's agreement in percent; empty where nothing is held out."""
        return [100 * agreeing / self.held_out for agreeing in self.agreeing] if self.held_out else []

    @property
    def gain(self) -> float:
        """Points of agreement that the round added; NaN where nothing is held out."""
        return 100 * (self.gained - self.lost) / self.held_out if self.held_out else math.nan

    @property
    def gain_error(self) -> float:
        """The gain's standard error, in points, from the number of images alone: of a paired difference."""
        if not self.held_out:
            return math.nan
        difference = self.gained - self.lost
        return 100 * math.sqrt(self.gained + self.lost - difference**2 / self.held_out) / self.held_out

    @property
    def sentence(self) -> str:
        """What the round added, in words."""
        if not self.held_out:
            return f"round {self.round}: no real image is held out that could tell what it added"
        return (
            f"round {self.round}, at {self.bought[-1]:,} answers, added {self.gain:.2f} points of agreement with "
            f"the teacher (standard error {self.gain_error:.2f}, on {self.held_out:,} real images held out)"
        )


_CONTENT = TypeAdapter(tuple[Measurement, ...])


def read_measurements(path: Path) -> tuple[Measurement, ...]:
    """What was measured so far, round by round; none where the file is missing or damaged: it can be taken again."""
    try:
        measured = _CONTENT.validate_json(path.read_bytes())
    except (OSError, ValidationError):
        return ()
    return measured if all(one.round == number for number, one in enumerate(measured, start=1)) else ()


def keep_measurements(path: Path, measured: Sequence[Measurement]) -> None:
    """Write all of them; they are on the disk when this returns. Raises OSError."""
    path.parent.mkdir(exist_ok=True)
    write_durably(path, _CONTENT.dump_json(tuple(measured), indent=1))


def flat_since(config: BudgetConfig, measured: Sequence[Measurement]) -> int | None:
    """The round after which nothing more is bought: the last of ``patience`` that each added less than is wanted."""
    if config.policy != "until-flat":
        return None
    in_a_row = 0
    for one in measured:
        in_a_row = in_a_row + 1 if one.gain < config.least_gain else 0
        if in_a_row == config.patience:
            return one.round
    return None


class Estimate(BaseModel):
    """Points of agreement that ``answers`` more would probably have added, and within what, from so many students."""

    model_config = ConfigDict(frozen=True)

    answers: int
    points: float
    low: float
    high: float
    students: int

    @property
    def sentence(self) -> str:
        """The same in words."""
        return (
            f"the other {self.answers:,} answers would probably have added about {self.points:.1f} points, with 90 % "
            f"confidence {self.low:.1f} to {self.high:.1f} (an estimate, by a power law through "
            f"{self.students} students)"
        )


def estimate_rest(last: Measurement, planned: int) -> Estimate | None:
    """What buying all that was ``planned`` would have added to the last student; None where nothing is left of it.

    The formula is at the top. No mistake at all, or all, are counted as half a mistake, for the logarithm's sake.
    """
    rest = planned - last.bought[-1]
    if rest <= 0 or not last.held_out:
        return None
    students = len(last.bought)
    log_n = np.log(np.array(last.bought, dtype=np.float64))
    wrong = np.clip(last.held_out - np.array(last.agreeing, dtype=np.float64), 0.5, last.held_out - 0.5)
    disagreement = wrong / last.held_out
    log_e = np.log(disagreement)
    spread = ((log_n - log_n.mean()) ** 2).sum()
    slope = ((log_n - log_n.mean()) * (log_e - log_e.mean())).sum() / spread
    residuals = log_e - log_e.mean() - slope * (log_n - log_n.mean())
    freedom = max(1, students - 2)
    of_counting = ((1 - disagreement) / wrong).mean()  # the variance of a frequency's logarithm
    error = math.sqrt(max((residuals**2).sum() / freedom, of_counting) / spread)
    reach = _T_95[min(freedom, len(_T_95)) - 1] * error

    def points(exponent: float) -> float:
        share_left = (last.bought[-1] / planned) ** max(0.0, exponent)
        return round(float(100 * disagreement[-1] * (1 - share_left)), 2)

    middle, low, high = (points(float(-slope) + far) for far in (0.0, -reach, reach))
    return Estimate(answers=rest, points=middle, low=low, high=high, students=students)


def describe_rounds(config: BudgetConfig, measured: Sequence[Measurement], planned: int) -> dict[str, Any]:
    """What a run's summary says of its rounds under "until-flat"; ``planned`` images are the most it may buy."""
    stopped_after = flat_since(config, measured)
    estimate = estimate_rest(measured[-1], planned) if stopped_after else None
    return {
        "policy": config.policy,
        "rounds": config.rounds,
        "least_gain": config.least_gain,
        "patience": config.patience,
        "measured": [_row(one) for one in measured],
        "stopped_after": stopped_after,
        "estimate": None if estimate is None else estimate.model_dump(),
        "sentence": _decision(config, measured, stopped_after) + (f"; {estimate.sentence}" if estimate else ""),
    }


def _row(one: Measurement) -> dict[str, Any]:
    return {
        "round": one.round,
        "bought": one.bought[-1],
        "held_out": one.held_out,
        "students": [
            {"bought": bought, "agreement": round(agreement, 2)}
            for bought, agreement in zip(one.bought, one.agreements, strict=False)
        ],
        "gain": None if math.isnan(one.gain) else round(one.gain, 2),
        "gain_error": None if math.isnan(one.gain_error) else round(one.gain_error, 2),
    }


def _decision(config: BudgetConfig, measured: Sequence[Measurement], stopped_after: int | None) -> str:
    in_a_row = "" if config.patience == 1 else f", {config.patience} rounds in a row"
    sign = f"less than {config.least_gain:g}{in_a_row}"
    if stopped_after is None:
        return (
            f"all {config.rounds} rounds were bought: none before the last gave the sign to stop, which is {sign} "
            "points of agreement with the teacher"
        )
    last = measured[stopped_after - 1]
    return f"stopped after round {stopped_after} of {config.rounds}: {last.sentence}; the sign to stop is {sign}"
