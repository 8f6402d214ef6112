"""One run's result as one line of `benchmarks/results/DATASET.jsonl`: what was run, what came out, and its proof."""

import os
from pathlib import Path
from typing import Any

from filelock import FileLock
from pydantic import BaseModel, ConfigDict, ValidationError

from benchmarks.reproduction.cases import PROJECT, Draw, Experiment
from distill_client.config import RunConfig

RESULTS = PROJECT / "benchmarks" / "results"


class RowsDamaged(Exception):
    """A results file holds a line that is no row; the message names both."""


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class PoolDrawn(_Part):
    """The real images: how many, of what, and whether equally many of each class."""

    dataset: str
    images: int
    draw: Draw


class TeacherAsked(_Part):
    """Who answered, and its accuracy on the test set as its owner measured it (a fraction)."""

    name: str
    version: str
    weights_sha256: str
    accuracy: float


class Measured(_Part):
    """Fractions of the test set: named as the truth has it, and as the teacher does."""

    accuracy: float
    agreement: float


class Counts(_Part):
    """Images, by who counts them, and the answers they came in (one per request) with those that a receipt proves."""

    planned: int
    bought: int
    charged_by_server: int
    in_audit_log: int
    answers: int
    receipts: int


class LastReceipt(_Part):
    """The latest signed receipt, which commits to the whole history of the key."""

    sequence: int
    event_hash: str
    signing_key: str
    signature: str


class Versions(_Part):
    """What ran. ``dirty``: tracked files differed from the commit, or became others meanwhile."""

    python: str
    torch: str
    numpy: str
    commit: str
    dirty: bool


class Machine(_Part):
    """Where it ran; ``threads`` of the training, ``device`` as torch names it."""

    cpu: str
    cores: int
    threads: int
    device: str


class Row(_Part):
    """A finished run. ``seconds`` are wall seconds by phase, over all resumptions.

    ``cpu_seconds`` are the client process' own; of a run that was ``resumed``, its last process' alone.
    """

    dataset: str
    method: str
    student: str
    answers: int
    pool: PoolDrawn
    disclosure: str
    seed: int
    config_digest: str
    teacher: TeacherAsked
    result: Measured
    baselines: dict[str, Measured]
    test_images: int
    counts: Counts
    by_phase: dict[str, int]
    last_receipt: LastReceipt
    seconds: dict[str, float]
    cpu_seconds: float
    resumed: bool
    finished_at: str
    versions: Versions
    machine: Machine
    config: dict[str, Any]

    def is_of(self, experiment: Experiment) -> bool:
        """Whether it is this experiment's: the same case, teacher and configuration.

        Of a configuration from before this program learnt more keys, what it does not name must have its default.
        """
        case, config = experiment.case, experiment.config
        mine = (self.dataset, self.method, self.disclosure, self.teacher.weights_sha256)
        if mine != (case.dataset, case.method, case.disclosure, experiment.weights_sha256):
            return False
        if (self.seed, self.student, self.answers) != (config.seed, config.student.network, config.budget_images):
            return False  # what follows takes its time
        try:
            return RunConfig.model_validate(self.config) == config
        except ValidationError:  # of a key that this program has no more
            return False


def read_rows(dataset: str, results: Path = RESULTS) -> list[Row]:
    """All rows of a data set, in the order they came. Raises RowsDamaged."""
    path = results / f"{dataset}.jsonl"
    rows = []
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    for number, line in enumerate(lines, start=1):
        try:
            rows.append(Row.model_validate_json(line))
        except ValidationError as error:
            raise RowsDamaged(f"{path}: line {number} is no row of results: {error}") from error
    return rows


def append_row(row: Row, results: Path = RESULTS) -> None:
    """Add a row, so that it is on the disk; safe beside other processes that do the same. Raises RowsDamaged."""
    results.mkdir(parents=True, exist_ok=True)
    path = results / f"{row.dataset}.jsonl"
    with FileLock(path.with_name(f".{path.name}.lock")):
        read_rows(row.dataset, results)  # nothing is appended to half a line
        with path.open("a", encoding="utf-8") as file:
            file.write(row.model_dump_json() + "\n")
            file.flush()
            os.fsync(file.fileno())
