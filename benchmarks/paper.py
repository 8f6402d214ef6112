"""The paper's comparison: `.venv/bin/python benchmarks/paper.py --dataset fashion-mnist --method fs-bbt`.

Every run is the real thing: a `teacher serve` process on a fresh ledger, a key with exactly the run's budget,
`distill run` over HTTP, the owner's answers for agreement, the audit. Each adds one line to
`benchmarks/results/DATASET.jsonl`. What is recorded is not run again, and a run that was killed goes on; several may
be started beside each other, also of the same `--plan`. A run whose counts do not agree is not recorded, and one of
files that no commit has only with `--dirty`.
"""

import re
import signal
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

import typer

from benchmarks.reproduction.cases import BUNDLES, CONFIGS, Case, CaseError, Experiment, resolve
from benchmarks.reproduction.planned import PLAN, PlanError, read_plan
from benchmarks.reproduction.provenance import Uncommitted, present_tree, require_committed
from benchmarks.reproduction.rows import RESULTS, Row, RowsDamaged, append_row, read_rows
from benchmarks.reproduction.running import RUNS, RunFailed, UnderWay, claimed, discard, folder_of, run_experiment

Resolve = Callable[[Case], Experiment]


def main(  # noqa: PLR0913, PLR0917 - one parameter per flag
    dataset: Annotated[str | None, typer.Option(help="a folder of configs/paper")] = None,
    method: Annotated[str | None, typer.Option(help="a file of that folder")] = None,
    seeds: Annotated[str, typer.Option(help="one run each")] = "1,2,3",
    student: Annotated[str | None, typer.Option(help="another network than the method's file has")] = None,
    answers: Annotated[int | None, typer.Option(help="buy so many in all, the pool included", min=1)] = None,
    pool_images: Annotated[int | None, typer.Option(help="so many real images", min=1)] = None,
    pool: Annotated[Literal["balanced", "random"], typer.Option(help="how the real images are drawn")] = "balanced",
    pool_dataset: Annotated[str | None, typer.Option(help="real images of another data set")] = None,
    disclosure: Annotated[str, typer.Option(help="what the key may see of an answer")] = "probabilities",
    teacher: Annotated[str | None, typer.Option(help="another bundle than the method's file has")] = None,
    plan: Annotated[bool, typer.Option("--plan", help="run what benchmarks/paper-plan.toml has, in order")] = False,
    listed: Annotated[bool, typer.Option("--list", help="of that plan, say what there is; run nothing")] = False,
    device: Annotated[str, typer.Option(help="cpu or cuda")] = "cpu",
    discards: Annotated[bool, typer.Option("--discard", help="remove each run's folder once recorded")] = False,
    dirty: Annotated[
        bool, typer.Option("--dirty", help="run also what is not committed; its rows are marked")
    ] = False,
    configs: Annotated[Path, typer.Option(help="where the methods' files are")] = CONFIGS,
    bundles: Annotated[Path, typer.Option(help="where the teachers are")] = BUNDLES,
    results: Annotated[Path, typer.Option(help="where the lines go")] = RESULTS,
    runs: Annotated[Path, typer.Option(help="where the runs are made")] = RUNS,
) -> None:
    """Run what the options name; or the plan, which --dataset and --method narrow; or list what there is of it."""
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        if plan or listed:
            named = [case for case in read_plan(PLAN) if dataset in (None, case.dataset)]
            cases = [case for case in named if method in (None, case.method)]
        elif dataset is None or method is None:
            raise CaseError("give --dataset and --method, or --plan, or --list")
        else:
            cases = [
                Case(dataset, method, seed, student, answers, pool_images, pool, pool_dataset, disclosure, teacher)
                for seed in _numbers(seeds)
            ]
        found = partial(resolve, configs=configs, bundles=bundles)
        if listed:
            _list(cases, found, results)
            return
        manner = _Manner(found, results, runs, device, discards=discards, dirty=dirty)
        failures = sum(not _run(case, manner) for case in cases)
    except (CaseError, PlanError, RowsDamaged, Uncommitted) as error:
        raise SystemExit(f"paper: {error}") from None
    if failures:
        raise SystemExit(f"paper: {failures} of {len(cases)} runs failed, see above")


def _numbers(seeds: str) -> list[int]:
    if not re.fullmatch(r"\d+(,\d+)*", seeds):
        raise CaseError(f"--seeds is {seeds!r}; allowed are whole numbers and commas, such as 1,2,3")
    return [int(seed) for seed in seeds.split(",")]


@dataclass(frozen=True)
class _Manner:
    """How runs are made: from which files, on which device, where they and their rows go, and what is kept."""

    found: Resolve
    results: Path
    runs: Path
    device: str
    discards: bool
    dirty: bool


def _run(case: Case, manner: _Manner) -> bool:
    """Run a case unless it is recorded; false if it failed, which does not keep others from running.

    Raises Uncommitted before it begins with files that no commit has.
    """
    try:
        experiment = manner.found(case)
        name = f"{_about(experiment)}, seed {case.seed}"
        is_recorded = _say_recorded(name, experiment, manner.results)
        if is_recorded and not (manner.discards and folder_of(experiment, manner.runs).exists()):
            return True
        with claimed(experiment, manner.runs):
            # Else it is recorded by somebody else meanwhile, or by one who was killed before the folder was gone.
            if not is_recorded and not _say_recorded(name, experiment, manner.results):
                _record(name, experiment, manner)
            if manner.discards:
                discard(experiment, manner.runs)
    except UnderWay as elsewhere:
        print(f"{name}: {elsewhere}", flush=True)
    except (RunFailed, CaseError) as error:
        print(f"FAILED: {case.command()}: {error}", flush=True)
        return False
    return True


def _record(name: str, experiment: Experiment, manner: _Manner) -> None:
    """Make a claimed run and add its row. Raises Uncommitted, RunFailed and CaseError."""
    if not manner.dirty:
        require_committed(present_tree(experiment.file))
    print(f"{name}: begins", flush=True)
    row = run_experiment(experiment, runs=manner.runs, device=manner.device)
    append_row(row, manner.results)
    print(f"{name}: {_outcome(row)}", flush=True)


def _say_recorded(name: str, experiment: Experiment, results: Path) -> bool:
    rows = [row for row in read_rows(experiment.case.dataset, results) if row.is_of(experiment)]
    if rows:
        print(f"{name}: recorded, {_outcome(rows[0])}", flush=True)
    return bool(rows)


def _list(cases: list[Case], found: Resolve, results: Path) -> None:
    """One line for each case of the plan: the seeds there are with what came out, and those that are missing."""
    rows = {dataset: read_rows(dataset, results) for dataset in {case.dataset for case in cases}}
    told: dict[str, list[str]] = {}
    there = 0
    for case in cases:
        try:
            experiment = found(case)
        except CaseError as error:
            told.setdefault(f"{case.dataset} {case.method}", []).append(f"cannot be run: {error}")
            continue
        row = next((row for row in rows[case.dataset] if row.is_of(experiment)), None)
        there += row is not None
        outcome = "missing" if row is None else f"{row.result.accuracy:.2%}"
        told.setdefault(_about(experiment), []).append(f"seed {case.seed} {outcome}")
    for about, seeds in told.items():
        print(f"{about}: {', '.join(dict.fromkeys(seeds))}")
    print(f"{there} of {len(cases)} runs of the plan are recorded")


def _about(experiment: Experiment) -> str:
    case, config = experiment.case, experiment.config
    return (
        f"{case.dataset} {case.method} {config.student.network}, {config.budget_images:,} answers "
        f"({case.disclosure}), {config.pool.images:,} {case.pool} real images of {config.pool.dataset}"
    )


def _outcome(row: Row) -> str:
    return (
        f"accuracy {row.result.accuracy:.2%}, agreement {row.result.agreement:.2%}, "
        f"{row.counts.charged_by_server:,} charged, {row.cpu_seconds:.0f} CPU seconds"
    )


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    try:
        typer.run(main)
    except KeyboardInterrupt:
        typer.echo("\npaper: stopped; the same command goes on", err=True)
        raise SystemExit(130) from None
