"""Which runs the comparison needs, in the order in which they are to be had: `benchmarks/paper-plan.toml`."""

import itertools
import tomllib
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from benchmarks.reproduction.cases import PROJECT, Case, Draw

PLAN = PROJECT / "benchmarks" / "paper-plan.toml"


class PlanError(Exception):
    """The plan's file is not one; the message names the key and its value."""


class Group(BaseModel):
    """Runs that belong together: every combination of what is listed, the first seed of all before the second.

    ``section`` is where docs/results.md has them: its main tables, the curves by answers, or the unfriendly cases.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    about: str
    section: Literal["main", "curve", "case"]
    dataset: str
    methods: tuple[str, ...] = Field(min_length=1)
    students: tuple[str | None, ...] = (None,)
    answers: tuple[int | None, ...] = (None,)
    pool_images: int | None = None
    pool: Draw = "balanced"
    pool_dataset: str | None = None
    disclosures: tuple[str, ...] = ("probabilities",)
    teacher: str | None = None
    seeds: tuple[int, ...] = (1, 2, 3)

    def cases(self) -> list[Case]:
        """The group's runs, in order."""
        combined = itertools.product(self.seeds, self.students, self.answers, self.disclosures, self.methods)
        return [
            Case(
                dataset=self.dataset,
                method=method,
                seed=seed,
                student=student,
                answers=answers,
                pool_images=self.pool_images,
                pool=self.pool,
                pool_dataset=self.pool_dataset,
                disclosure=disclosure,
                teacher=self.teacher,
            )
            for seed, student, answers, disclosure, method in combined
        ]


class _Plan(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    group: tuple[Group, ...]


def read_groups(path: Path = PLAN) -> tuple[Group, ...]:
    """The plan's groups. Raises PlanError."""
    try:
        return _Plan.model_validate(tomllib.loads(path.read_text(encoding="utf-8"))).group
    except (OSError, tomllib.TOMLDecodeError, ValidationError) as error:
        raise PlanError(f"{path}: {error}") from error


def read_plan(path: Path = PLAN) -> list[Case]:
    """The plan's runs, each once, in the order in which they are first named. Raises PlanError."""
    return list(dict.fromkeys(case for group in read_groups(path) for case in group.cases()))
