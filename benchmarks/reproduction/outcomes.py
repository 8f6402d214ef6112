"""What came out of the plan's runs, seeds together: means and deviations from the committed rows alone."""

import statistics
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks.reproduction.cases import BUNDLES, CONFIGS, Case, CaseError, Experiment, resolve
from benchmarks.reproduction.planned import PLAN, Group, read_groups
from benchmarks.reproduction.rows import RESULTS, Row, read_rows
from shared.counting import counted

USUAL_SEEDS = 3


@dataclass(frozen=True)
class Figure:
    """Percent, over ``runs`` seeds; the deviation is of the sample, None of a single run."""

    mean: float
    deviation: float | None
    runs: int

    @classmethod
    def of(cls, fractions: list[float]) -> "Figure":
        """The figure of fractions of one."""
        percent = [100 * fraction for fraction in fractions]
        deviation = statistics.stdev(percent) if len(percent) > 1 else None
        return cls(statistics.mean(percent), deviation, len(percent))

    def __str__(self) -> str:
        deviation = "" if self.deviation is None else f" ± {self.deviation:.2f}"
        seeds = "" if self.runs == USUAL_SEEDS else f" ({counted(self.runs, 'seed')})"
        return f"{self.mean:.2f}{deviation} %{seeds}"


@dataclass(frozen=True)
class Outcome:
    """One case under all its planned seeds: the rows there are, and how many there should be."""

    experiment: Experiment
    rows: tuple[Row, ...]
    seeds: tuple[int, ...]

    @property
    def student(self) -> str:
        """The student's network, also where the method's file names it."""
        return self.experiment.config.student.network

    @property
    def answers(self) -> int:
        """Images bought in all, as planned."""
        return self.experiment.config.budget_images

    @property
    def command(self) -> str:
        """What repeats it."""
        return self.experiment.case.command(",".join(map(str, self.seeds)))

    @property
    def accuracy(self) -> Figure | None:
        """The student's on the test set; None before the first run."""
        return Figure.of([row.result.accuracy for row in self.rows]) if self.rows else None

    @property
    def agreement(self) -> Figure | None:
        """The student's with the teacher, on the test set; None before the first run."""
        return Figure.of([row.result.agreement for row in self.rows]) if self.rows else None

    @property
    def cpu_seconds(self) -> float | None:
        """The client's, on average over runs that nobody interrupted; None where there is none."""
        whole = [row.cpu_seconds for row in self.rows if not row.resumed]
        return statistics.mean(whole) if whole else None

    def baseline(self, name: str) -> tuple[Figure, Figure] | None:
        """Accuracy and agreement of a baseline that these runs trained beside the student; None where not."""
        found = [row.baselines[name] for row in self.rows if name in row.baselines]
        if not found:
            return None
        return Figure.of([each.accuracy for each in found]), Figure.of([each.agreement for each in found])


@dataclass(frozen=True)
class Section:
    """A group of the plan with what came of it; ``blocked`` says why of cases that cannot be run."""

    group: Group
    outcomes: tuple[Outcome, ...]
    blocked: tuple[str, ...]


def read_sections(
    plan: Path = PLAN, *, configs: Path = CONFIGS, bundles: Path = BUNDLES, results: Path = RESULTS
) -> tuple[Section, ...]:
    """All of the plan. Rows of other configurations than the present files' are passed over.

    Raises PlanError and RowsDamaged.
    """
    groups = read_groups(plan)
    rows = {dataset: read_rows(dataset, results) for dataset in {group.dataset for group in groups}}

    def section(group: Group) -> Section:
        outcomes, blocked = [], []
        for case in dict.fromkeys(replace(case, seed=0) for case in group.cases()):
            try:
                found = _rows_of(case, group.seeds, rows[group.dataset], configs, bundles)
                outcomes.append(Outcome(resolve(case, configs=configs, bundles=bundles), found, group.seeds))
            except CaseError as error:
                blocked.append(str(error))
        return Section(group, tuple(outcomes), tuple(blocked))

    return tuple(section(group) for group in groups)


def _rows_of(case: Case, seeds: Iterable[int], rows: list[Row], configs: Path, bundles: Path) -> tuple[Row, ...]:
    found = []
    for seed in seeds:
        experiment = resolve(replace(case, seed=seed), configs=configs, bundles=bundles)
        found += [row for row in rows if row.is_of(experiment)][:1]
    return tuple(found)
