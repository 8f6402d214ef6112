"""One run of the comparison, from nothing or from where it was killed: real server, real HTTP, own ledger and key."""

import json
import os
import resource
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import tomli_w
from filelock import FileLock, Timeout

from benchmarks.reproduction.cases import PROJECT, Experiment, require_teacher
from benchmarks.reproduction.provenance import THREADS, Tree, present_machine, present_tree
from benchmarks.reproduction.rows import (
    Counts,
    LastReceipt,
    Machine,
    Measured,
    PoolDrawn,
    Row,
    TeacherAsked,
    Versions,
)
from distill_client.durable import write_durably
from examples.local_teacher import CommandFailed, issue_key, run, run_json, serving

RUNS = PROJECT / "runs" / "paper"


class RunFailed(Exception):
    """A run ended without a result that may be recorded; the message says why and where to look."""


class UnderWay(Exception):
    """Another process is at this very run."""


def folder_of(experiment: Experiment, runs: Path = RUNS) -> Path:
    """Where a run is made."""
    return runs / experiment.folder_name


@contextmanager
def claimed(experiment: Experiment, runs: Path = RUNS) -> Iterator[None]:
    """Keep every other process from this run meanwhile. Raises UnderWay."""
    path = runs / f"{experiment.folder_name}.lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(path, timeout=0):
            yield
    except Timeout as error:
        raise UnderWay(f"another process is at it ({path})") from error


def run_experiment(experiment: Experiment, *, runs: Path = RUNS, device: str = "cpu") -> Row:
    """Bring a claimed run to its end and return what came out; what was bought before a kill is not bought again.

    Raises CaseError without a teacher, and RunFailed when a command fails or the counts do not agree.
    """
    require_teacher(experiment)
    folder = folder_of(experiment, runs)
    folder.mkdir(parents=True, exist_ok=True)
    try:
        return _run_in(folder, experiment, device)
    except CommandFailed as failed:
        raise RunFailed(f"{failed}; its log is {folder / 'client.log'}; the same command goes on") from failed


def _run_in(folder: Path, experiment: Experiment, device: str) -> Row:
    environment = {**os.environ, "OMP_NUM_THREADS": str(THREADS)}
    os.environ["OMP_NUM_THREADS"] = str(THREADS)  # the server's
    config = folder / "experiment.toml"
    content = experiment.config.model_dump(mode="json", exclude_none=True)
    write_durably(config, tomli_w.dumps(content).encode())
    budget = _planned(config, experiment)

    began_with = present_tree(experiment.file)
    run_dir, resumed = folder / "run", (folder / "run").exists()
    with serving(experiment.bundle, f"sqlite:///{folder / 'ledger.sqlite'}", folder / "server.log") as url:
        environment["DISTILL_API_KEY"] = _key(folder, experiment.case.disclosure, budget)
        before = _children_cpu_seconds()
        how: tuple[object, ...] = ("resume", run_dir) if resumed else ("run", config, "--out", run_dir)
        with (folder / "client.log").open("a") as log:
            run("distill", *how, "--teacher", url, "--device", device, env=environment, out=log)
            cpu_seconds = _children_cpu_seconds() - before
            answers = folder / "teacher-answers.npz"
            about = ("--bundle", experiment.bundle, "--dataset", experiment.config.evaluation.dataset)
            run("teacher", "predict", *about, "--out", answers, "--device", device, env=environment, out=log)
            measured = ("evaluate", run_dir, "--teacher-answers", answers, "--device", device)
            run("distill", *measured, env=environment, out=log)
        audit = run_json("distill", "audit", run_dir, "--teacher", url, "--json", env=environment)
    summary = json.loads((run_dir / "summary.json").read_text())
    return _row(
        experiment,
        summary,
        _counted(summary, audit, budget, folder),
        cpu_seconds=round(cpu_seconds, 1),
        resumed=resumed,
        versions=_versions(summary, began_with),
        machine=present_machine(device),
    )


def _planned(config: Path, experiment: Experiment) -> int:
    """What the run is to buy: its whole budget, but for images of a second pool that are in the first as well.

    Raises RunFailed.
    """
    planned = int(str(run_json("distill", "plan", config, "--json")["total"]))
    budget = experiment.config.budget_images
    if planned > budget or (planned < budget and not experiment.config.synthesis.has_second_pool):
        raise RunFailed(f"{config} plans {planned} images for a budget of {budget}: they must be the same")
    return planned


def _key(folder: Path, disclosure: str, budget: int) -> str:
    """The run's key: issued once, with exactly its budget, and kept where nobody else reads it."""
    kept = folder / "key"
    if not kept.exists():
        ledger = f"sqlite:///{folder / 'ledger.sqlite'}"
        name = f"paper-{datetime.now(UTC):%Y%m%d%H%M%S}"  # an earlier one, issued just before a kill, stays unused
        secret = issue_key(ledger, name=name, budget=budget, disclosure=disclosure)
        draft = folder / "key.tmp"
        with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
            file.write(secret)
        draft.replace(kept)
    return kept.read_text()


def _counted(summary: dict[str, Any], audit: dict[str, Any], budget: int, folder: Path) -> Counts:
    """The counts of a run, which must agree with each other and the plan, every answer with a receipt.

    Images that came out equal to others, as a CVAE's may, are bought once, so fewer than planned. Raises RunFailed.
    """
    images = summary["images"]
    counts = Counts(
        planned=images["planned"],
        **{name: audit[name] for name in ("bought", "charged_by_server", "in_audit_log", "answers", "receipts")},
    )
    different = budget - images.get("repeated", 0)
    same = {different, counts.bought, counts.charged_by_server, counts.in_audit_log}
    if counts.planned != budget or len(same) != 1 or not audit["equal"] or counts.receipts != counts.answers:
        raise RunFailed(f"{folder}: the counts do not agree, so nothing is recorded: {counts}; {audit['faults']}")
    return counts


def _versions(summary: dict[str, Any], began_with: Tree) -> Versions:
    """What ran; dirty also where the files changed while it did, as each of its commands reads them anew."""
    packages = {name: summary["versions"][name] for name in ("python", "torch", "numpy")}
    return Versions(**packages, commit=began_with.commit, dirty=began_with.dirty or present_tree() != began_with)


def _row(  # noqa: PLR0913 - what a row is made of, each by its name
    experiment: Experiment,
    summary: dict[str, Any],
    counts: Counts,
    *,
    cpu_seconds: float,
    resumed: bool,
    versions: Versions,
    machine: Machine,
) -> Row:
    case, config, receipt = experiment.case, experiment.config, summary["last_receipt"]
    agreements = {
        "student_alone": summary["student_alone_agreement"],
        "standard_kd": summary["standard_kd_agreement"],
    }
    return Row(
        dataset=case.dataset,
        method=case.method,
        student=config.student.network,
        answers=config.budget_images,
        pool=PoolDrawn(
            dataset=str(config.pool.dataset),
            images=config.pool.images,
            draw="balanced" if config.pool.balanced else "random",
        ),
        disclosure=case.disclosure,
        seed=case.seed,
        config_digest=summary["config_digest"],
        teacher=TeacherAsked(
            **summary["teacher"],
            weights_sha256=str(experiment.weights_sha256),
            accuracy=summary["teacher_accuracy"],
        ),
        result=Measured(accuracy=summary["student_accuracy"], agreement=summary["agreement"]),
        baselines={
            name: Measured(accuracy=accuracy, agreement=agreements[name])
            for name, accuracy in summary["baselines"].items()
            if accuracy is not None
        },
        test_images=summary["test_images"],
        counts=counts,
        by_phase=summary["images"]["by_phase"],
        last_receipt=LastReceipt(
            sequence=receipt["event"]["sequence"],
            event_hash=receipt["event"]["hash"],
            signing_key=receipt["signing_key"],
            signature=receipt["signature"],
        ),
        seconds=summary["seconds"],
        cpu_seconds=cpu_seconds,
        resumed=resumed,
        finished_at=datetime.now(UTC).isoformat(timespec="seconds"),
        versions=versions,
        machine=machine,
        config=config.model_dump(mode="json"),
    )


def discard(experiment: Experiment, runs: Path = RUNS) -> None:
    """Remove a recorded run's folder, where it is there; the run is to be claimed."""
    folder = folder_of(experiment, runs)
    if folder.exists():
        shutil.rmtree(folder)


def _children_cpu_seconds() -> float:
    """CPU seconds, user and system, of all children that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
