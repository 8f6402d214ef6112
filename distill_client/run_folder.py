"""The run folder: everything a run leaves on the disk, and the only place that knows its file names.

config.toml          the experiment, as resolved
run.json             run id, digest of the configuration, seed, versions, the teacher's card and address
teacher.toml         the teacher's own file, where it is not one of our servers
pool.npy, pool.json  the real images the run works with, their files' names, and what was skipped and why
second_pool.npy      those that only FS-BBT's CVAE learns from, where it has a pool of its own
signing_keys.json    the public keys that the teacher's receipts were last verified with
answers.sqlite       recorded batches, paid answers and their receipts
batches.json         the batches' idempotency keys, for when answers.sqlite is lost
evidence/            what is held against the teacher, if anything
cvae.safetensors     the trained CVAE
gan.safetensors      the trained GAN, its generator and its critic
checkpoints/         trainings that are under way
rounds/              of a run that buys in rounds: what each added, and what was chosen for it
contenders/          a trained network each: student, standard_kd, student_alone; interim-0, interim-1, ...
metrics.jsonl        one row per training report
seconds.json         time spent in each phase, over all resumptions
student/             the student to hand on: weights, card.json and README.md
summary.json         what came out
report.png           the same to look at
"""

import json
import secrets
import shutil
import time
import tomllib
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import tomli_w
from filelock import FileLock, Timeout
from pydantic import ValidationError

from distill_client.commands import resume_command
from distill_client.config import RunConfig
from distill_client.config_identity import is_unchanged
from distill_client.durable import write_durably
from distill_client.errors import ConfigError, RunStoreError
from distill_client.run_record import RunRecord, current_versions
from distill_client.teachers.native.receipts import Pin
from distill_client.teachers.paid.allowance import Allowance
from distill_client.teachers.paid.batch_notes import BatchNotes
from distill_client.teachers.paid.mending import require_store
from distill_client.teachers.paid.store import PaidLabels
from distill_client.teachers.protocol import Capabilities
from distill_client.teachers.teacher_toml import self_contained_text
from shared.wire.contracts import SigningKeys

LABELS_FILE = "answers.sqlite"
TEACHER_FILE = "teacher.toml"


class RunFolder:
    """One run on the disk; use as a context manager, which keeps a second process out.

    With ``mends`` a lost or damaged answers.sqlite is set aside and begun anew: every answer in it can be had again
    at no charge, by the keys in batches.json. ``set_aside`` says then what was done.
    """

    def __init__(self, path: Path, config: RunConfig, record: RunRecord, *, mends: bool = False) -> None:
        self.path = path
        self.config = config
        self.record = record
        self.notes = BatchNotes(path / "batches.json")
        self.set_aside = ""
        self._mends = mends
        self._lock = FileLock(path / ".lock", timeout=0)

    def __enter__(self) -> "RunFolder":
        try:
            self._lock.acquire()
        except Timeout as error:
            raise RunStoreError(
                f"{self.path}: another process is working on this run; wait for it or stop it"
            ) from error
        try:
            self.set_aside = require_store(
                self.path / LABELS_FILE,
                has_notes=self.notes.exist,
                is_counted_here=self.counts_for_itself,
                mends=self._mends,
            )
            self.labels = PaidLabels(self.path / LABELS_FILE, run_id=self.record.run_id)
        except BaseException:
            self._lock.release()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.labels.close()
        self._lock.release()

    @property
    def counts_for_itself(self) -> bool:
        """Whether its teacher keeps no count, and the run's own ledger does."""
        return not self.record.teacher.reports_usage

    def keep_pin(self, pin: Pin) -> None:
        """Pin whom the run believes from now on."""
        self.record = self.record.model_copy(update={"pin": pin})
        write_text(self.path / "run.json", self.record.model_dump_json(indent=2) + "\n")

    def write_signing_keys(self, keys: SigningKeys) -> None:
        """Keep the public keys that receipts were verified with, so that they still can be without the server."""
        write_text(self.path / "signing_keys.json", keys.model_dump_json(indent=2) + "\n")

    def read_signing_keys(self) -> SigningKeys | None:
        """What was kept; None where nothing was, or it is damaged: who trusts it begins with the pinned key."""
        with suppress(OSError, ValidationError):
            return SigningKeys.model_validate_json((self.path / "signing_keys.json").read_bytes())
        return None

    @property
    def teacher_target(self) -> str:
        """Where the teacher is: its file as it was when the run began, or its address."""
        kept = self.path / TEACHER_FILE
        return str(kept) if kept.exists() else self.record.teacher_url

    def keep_teacher_file(self, path: Path) -> None:
        """Keep the teacher's file that the run goes on with."""
        if path.resolve() != (self.path / TEACHER_FILE).resolve():
            write_text(self.path / TEACHER_FILE, self_contained_text(path))

    @property
    def evidence_path(self) -> Path:
        """The folder of what is held against the teacher."""
        return self.path / "evidence"

    @property
    def cvae_path(self) -> Path:
        """The trained CVAE's weights."""
        return self.path / "cvae.safetensors"

    @property
    def gan_path(self) -> Path:
        """The trained GAN's weights."""
        return self.path / "gan.safetensors"

    def checkpoint_path(self, contender: str) -> Path:
        """Where a contender's training is saved while it lasts."""
        return self.path / "checkpoints" / f"{contender}.safetensors"

    def contender_path(self, contender: str) -> Path:
        """A trained contender's weights."""
        return self.path / "contenders" / f"{contender}.safetensors"

    @property
    def measurements_path(self) -> Path:
        """What each round added, of a run that buys until it is flat."""
        return self.path / "rounds" / "measured.json"

    def choice_path(self, number: int) -> Path:
        """What a round of active MixUp buys."""
        return self.path / "rounds" / f"active-{number}.npy"

    @property
    def student_path(self) -> Path:
        """The folder with the student to hand on."""
        return self.path / "student"

    @property
    def figure_path(self) -> Path:
        """The picture of the results."""
        return self.path / "report.png"

    def write_metrics(self, contender: str, rows: list[dict[str, float]]) -> None:
        """Set a contender's training reports in metrics.jsonl; the other contenders' rows stay."""
        kept = [row for row in self.read_metrics() if row["contender"] != contender]
        lines = [json.dumps(row) for row in [*kept, *({"contender": contender, **row} for row in rows)]]
        write_text(self.path / "metrics.jsonl", "\n".join(lines) + "\n")

    def read_metrics(self) -> list[dict[str, Any]]:
        """Every row of metrics.jsonl; a damaged line is passed over, because a paid run must not end on one."""
        path = self.path / "metrics.jsonl"
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines() if path.exists() else []
        rows = []
        for line in lines:
            with suppress(ValueError):
                rows.append(json.loads(line))
        return [row for row in rows if isinstance(row, dict) and {"contender", "step", "loss"} <= row.keys()]

    @contextmanager
    def timed(self, phase: str) -> Iterator[None]:
        """Add the seconds spent inside to the phase's sum; a phase that is killed counts from its resumption."""
        started = time.monotonic()
        yield
        spent = self.read_seconds()
        spent[phase] = round(spent.get(phase, 0.0) + time.monotonic() - started, 3)
        write_text(self.path / "seconds.json", json.dumps(spent, indent=2))

    def read_seconds(self) -> dict[str, float]:
        """Seconds by phase so far; none where the file is missing or damaged."""
        with suppress(OSError, ValueError, TypeError):
            content = json.loads((self.path / "seconds.json").read_text(encoding="utf-8"))
            return {str(phase): float(spent) for phase, spent in dict(content).items()}
        return {}

    def write_summary(self, summary: dict[str, Any]) -> None:
        """Replace summary.json."""
        write_text(self.path / "summary.json", json.dumps(summary, indent=2) + "\n")

    def read_summary(self) -> dict[str, Any]:
        """What summary.json holds. Raises RunStoreError when the run has not come that far."""
        summary: object = None
        with suppress(OSError, ValueError):
            summary = json.loads((self.path / "summary.json").read_text(encoding="utf-8"))
        if not isinstance(summary, dict) or not {"student_accuracy", "agreement_on", "baselines"} <= summary.keys():
            raise RunStoreError(f"{self.path}: no summary yet; `{resume_command(self.path)}` finishes the run")
        return summary


def require_free(path: Path) -> None:
    """Raise RunStoreError when there is something at ``path`` already, other than an empty folder."""
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise RunStoreError(
            f"{path} exists already: `{resume_command(path)}` goes on with the run in it, or give another --out"
        )


def create_run(  # noqa: PLR0913 - what a run is bound to, each by its name
    path: Path,
    config: RunConfig,
    teacher: Capabilities,
    *,
    teacher_url: str,
    key_identity: str | None,
    pin: Pin | None = None,
    allowance: Allowance | None = None,
    keep: Callable[[Path], None] | None = None,
) -> RunFolder:
    """Make a new run folder, all or nothing; the run is bound to the key whose identity is given, and to ``pin``.

    Without an identity the teacher keeps no count: the run begins a ledger of its own, with that ``allowance``.
    ``keep`` writes into the folder, before anybody sees it, what the run starts from.
    Raises RunStoreError when there is something at ``path`` already.
    """
    path = path.resolve()
    require_free(path)
    run_id = secrets.token_hex(16)
    unfinished = path.with_name(f"{path.name}.{run_id[:8]}.tmp")
    try:
        (unfinished / "checkpoints").mkdir(parents=True)
        (unfinished / "contenders").mkdir()
        content = config.model_dump(mode="json", exclude_none=True)
        write_text(unfinished / "config.toml", tomli_w.dumps(content))
        with closing(PaidLabels(unfinished / LABELS_FILE, run_id=run_id)) as labels:
            if key_identity is None:
                allowed = allowance or Allowance(teacher.budget.granted)
                key_identity = labels.own_ledger.begin(config.name, teacher, allowed).hash
        record = RunRecord(
            run_id=run_id,
            name=config.name,
            seed=config.seed,
            config_digest=config.digest(),
            started_at=datetime.now(UTC).isoformat(timespec="seconds"),
            teacher_url=teacher_url,
            key_identity=key_identity,
            teacher=teacher,
            versions=current_versions(),
            pin=pin,
        )
        write_text(unfinished / "run.json", record.model_dump_json(indent=2) + "\n")
        if keep is not None:
            keep(unfinished)
        if path.exists():
            path.rmdir()  # empty, as was just seen
        unfinished.rename(path)
    except OSError as error:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise RunStoreError(f"{path}: the run folder cannot be made: {error}") from error
    return RunFolder(path, config, record)


def open_run(path: Path, *, mends: bool = False) -> RunFolder:
    """Open a run folder. Raises RunStoreError when it is none, or its configuration was changed."""
    try:
        record = RunRecord.model_validate_json((path / "run.json").read_text(encoding="utf-8"))
        written = tomllib.loads((path / "config.toml").read_text(encoding="utf-8"))
        config = RunConfig.model_validate(written)
    except (OSError, ValidationError, ConfigError, ValueError) as error:
        raise RunStoreError(f"{path} is not a run folder, or a damaged one: {error}") from error
    if not is_unchanged(config, written, record.config_digest):
        what = "config.toml was changed since the run began; a changed experiment needs a new --out"
        raise RunStoreError(f"{path}: {what}")
    return RunFolder(path, config, record, mends=mends)


def write_text(path: Path, text: str) -> None:
    """Write a text file whole or not at all."""
    write_durably(path, text.encode("utf-8"))
