"""The table of what was tried while settings were chosen: a line of `benchmarks/development.py` for each trial."""

import json
from itertools import groupby
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from benchmarks.reproduction.cases import PROJECT

TRIALS = PROJECT / "benchmarks" / "development.jsonl"


class Trial(BaseModel):
    """One setting, and how it did on held-out training images: a fraction, and nats."""

    model_config = ConfigDict(extra="ignore")

    dataset: str
    student: str
    answers: int
    about: str
    agreement: float
    divergence: float
    device: str


def read_trials(path: Path = TRIALS) -> list[Trial]:
    """All of them, in the order they came. Raises ValueError for a damaged line."""
    return [Trial.model_validate(json.loads(line)) for line in path.read_text(encoding="utf-8").splitlines()]


def trial_table(trials: list[Trial]) -> str:
    """Markdown, grouped by what was to be taught with how many answers, the best first."""
    lines = ["| | answers | what | agreement | divergence |", "|---|---|---|---|---|"]

    def group(trial: Trial) -> tuple[str, str, int]:
        return trial.dataset, trial.student, -trial.answers

    for (dataset, student, _), found in groupby(sorted(trials, key=group), key=group):
        for trial in sorted(found, key=lambda trial: -trial.agreement):
            cells = (f"{dataset}, {student}", f"{trial.answers:,}", trial.about, f"{trial.agreement:.2%}")
            lines.append(f"| {' | '.join(cells)} | {trial.divergence:.3f} |")
    return "\n".join(lines)
