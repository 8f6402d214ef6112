"""The table of what was tried while settings were chosen: a line of `benchmarks/development.py` for each trial."""

from itertools import groupby
from pathlib import Path

from filelock import FileLock
from pydantic import BaseModel, ConfigDict

from benchmarks.reproduction.cases import PROJECT
from benchmarks.reproduction.rows import Versions

TRIALS = PROJECT / "benchmarks" / "development.jsonl"


class Trial(BaseModel):
    """One setting, and how it did on held-out training images: a fraction, nats, and wall seconds of its training.

    ``config_digest`` is of the method's file with ``set`` changed in it, ``versions`` of what ran; the first trials
    were kept without them.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    dataset: str
    method: str
    student: str
    answers: int
    about: str
    set: list[str]
    config_digest: str | None = None
    agreement: float
    divergence: float
    seconds: float
    device: str
    finished_at: str
    versions: Versions | None = None


def read_trials(path: Path = TRIALS) -> list[Trial]:
    """All of them, in the order they came. Raises ValueError for a damaged line."""
    return [Trial.model_validate_json(line) for line in path.read_text(encoding="utf-8").splitlines()]


def append_trial(trial: Trial, path: Path = TRIALS) -> None:
    """Add one; safe beside other processes that do the same."""
    with FileLock(path.with_suffix(".lock")), path.open("a", encoding="utf-8") as file:
        file.write(trial.model_dump_json() + "\n")


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
