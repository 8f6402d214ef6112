"""The `distill` command: plan what would be bought, run, resume, audit, evaluate, predict.

An experiment is a TOML file; flags only say where the teacher is, where the run goes and which device is used. The
key is read from DISTILL_API_KEY, never from a flag, where other users of the machine would see it.
"""

import contextlib
import json
import math
import os
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from rich.console import Console

from distill_client.config import RunConfig, load_config
from distill_client.errors import AuditMismatch, ConfigError, DistillError, RunStoreError

KEY_VARIABLE = "DISTILL_API_KEY"
EPILOG = (
    "Exit codes: 0 done, 2 configuration, 3 refused or budget exhausted, 4 teacher unavailable (resume later), "
    "5 answer outside the contract, 6 run folder, 7 the two sides' counts differ, 8 the teacher's version is gone, "
    "130 stopped by Ctrl-C (resume)."
)

app = typer.Typer(
    help="Distil an image classifier that you can only query, and prove what it cost.",
    epilog=EPILOG,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
ConfigFile = Annotated[Path, typer.Argument(help="the experiment, a TOML file", show_default=False)]
RunDir = Annotated[Path, typer.Argument(help="a run folder", show_default=False)]
Device = Annotated[str, typer.Option(help="where the networks run: cpu, cuda or cuda:N")]
AsJson = Annotated[bool, typer.Option("--json", help="print one JSON object instead of text")]
TeacherUrl = Annotated[str | None, typer.Option("--teacher", help="address of the teacher server")]

_out = Console()
_err = Console(stderr=True)


def main() -> None:
    """Entry point: an expected failure is one line on stderr and its exit code, never a traceback."""
    try:
        app()
    except DistillError as error:
        _say_and_exit(str(error), error.exit_code)
    except OSError as error:  # a full disk, a folder that may not be written
        _say_and_exit(str(error), RunStoreError.exit_code)


def _say_and_exit(message: str, exit_code: int) -> NoReturn:
    typer.echo("distill: " + "; ".join(line.strip() for line in message.splitlines()), err=True)
    raise SystemExit(exit_code) from None


@app.command()
def plan(config: ConfigFile, teacher: TeacherUrl = None, as_json: AsJson = False) -> None:
    """Say what a run would buy, phase by phase, and refuse what its budget cannot finish. Buys nothing.

    With --teacher, the images' shape and classes and the key's remaining budget are checked as well; the key is read
    from DISTILL_API_KEY. A pool of pictures needs it, or pool.size, to know what size they will have.
    """
    from distill_client.material import check_budget, check_card
    from distill_client.report.table import plan_table
    from distill_client.teachers.buying import images_per_request

    experiment = load_config(config)
    card = None
    if teacher is not None:
        with _connected(teacher, experiment) as server:
            card = server.card()
    material = _read_material(experiment, card)
    cost = material.cost
    if card is not None:
        check_card(experiment, card, material.pool)
        check_budget(cost, card)
    wanted = experiment.teacher.images_per_request
    per_request = wanted if card is None else images_per_request(wanted, card)
    requests = sum(math.ceil(images / per_request) for images in asdict(cost).values())
    if as_json:
        report = {"phases": asdict(cost), "total": cost.total, "budget_images": experiment.budget_images}
        typer.echo(json.dumps({**report, "requests": requests, "config_digest": experiment.digest()}))
    else:
        _out.print(plan_table(cost, budget_images=experiment.budget_images, requests=requests))


@app.command()
def run(
    config: ConfigFile,
    teacher: Annotated[str, typer.Option(help="address of the teacher server, such as http://127.0.0.1:8000")],
    out: Annotated[Path, typer.Option(help="the run folder to make; must be empty or not exist")],
    device: Device = "cpu",
    as_json: AsJson = False,
) -> None:
    """Buy the answers, train the student and its baselines, and audit the bill.

    The key is read from DISTILL_API_KEY. A run that stops for any reason goes on with `distill resume OUT`, and
    nothing is paid for twice.
    """
    from distill_client.material import check_budget, check_card
    from distill_client.run_folder import create_run, require_free
    from distill_client.teachers.protocol import key_identity

    experiment = load_config(config)
    _require_device(device)
    require_free(out)
    with _connected(teacher, experiment) as server:
        card = server.card()
        material = _read_material(experiment, card)
        check_card(experiment, card, material.pool)
        check_budget(material.cost, card)
        folder = create_run(
            out, experiment, card, teacher_url=teacher, key_identity=key_identity(server), keep=material.keep
        )
    _finish(folder, material, teacher, device, as_json=as_json)


@app.command()
def resume(directory: RunDir, teacher: TeacherUrl = None, device: Device = "cpu", as_json: AsJson = False) -> None:
    """Go on with a run that was stopped, from what is on the disk; a finished run is only measured again.

    The key is read from DISTILL_API_KEY and must be the one that the run began with.
    """
    from distill_client.material import Material
    from distill_client.run_folder import open_run

    _require_device(device)
    folder = open_run(directory)
    _finish(folder, Material.of_run(folder), teacher or folder.record.teacher_url, device, as_json=as_json)


@app.command()
def audit(directory: RunDir, teacher: TeacherUrl = None, as_json: AsJson = False) -> None:
    """Compare the run's own rows with the teacher's log for this key; exit code 7 when they differ.

    The key is read from DISTILL_API_KEY. A batch that was in flight when a run was stopped counts as a difference
    until `distill resume` has fetched its answer.
    """
    from distill_client.audit import audit_folder
    from distill_client.run_folder import open_run

    with open_run(directory) as folder, _connected(teacher or folder.record.teacher_url, folder.config) as server:
        report = audit_folder(folder, server)
    if as_json:
        typer.echo(json.dumps({**asdict(report), "equal": report.is_equal}))
    else:
        _out.print(
            f"counted by the client {report.bought:,}\ncharged by the server {report.charged_by_server:,}\n"
            f"in the audit log      {report.in_audit_log:,}\n"
            f"(other runs with this key: {report.spent_by_other_runs:,})",
            highlight=False,
        )
    if not report.is_equal:
        raise AuditMismatch(report.describe())


@app.command()
def evaluate(
    directory: RunDir,
    teacher_answers: Annotated[
        Path | None, typer.Option(help="the file that the owner wrote with `teacher predict`")
    ] = None,
    device: Device = "cpu",
    as_json: AsJson = False,
) -> None:
    """Measure a finished run: accuracy from true test labels, agreement with the teacher. Asks the teacher nothing.

    Agreement is measured on the owner's file where it is given, else on bought answers held out of training.
    """
    from distill_client import pipeline
    from distill_client.run_folder import open_run

    torch_device = _require_device(device)
    with open_run(directory) as folder:
        summary = pipeline.evaluate(folder, teacher_answers, torch_device)
        _draw(folder, summary)
    _print_summary(summary, directory, as_json=as_json)


@app.command()
def predict(
    directory: RunDir,
    images: Annotated[list[Path], typer.Argument(help="PNG, JPEG or WebP files", show_default=False)],
    device: Device = "cpu",
    as_json: AsJson = False,
) -> None:
    """Classify image files with the run's student, by the same preprocessing rule as the teacher's.

    Files that cannot be read are named, the others classified; the exit code is 2 if there was one.
    """
    from distill_client.prediction import predict_files
    from distill_client.run_folder import open_run

    predictions, skipped = predict_files(open_run(directory), images, _require_device(device))
    if as_json:
        unread = [{"file": each.file, "reason": each.reason} for each in skipped]
        typer.echo(json.dumps({"predictions": predictions, "skipped": unread}))
    else:
        for prediction in predictions:
            typer.echo(f"{prediction['file']}: {prediction['class']} ({prediction['probability']:.1%})")
    for each in skipped:
        typer.echo(f"distill: {each.file}: {each.reason}", err=True)
    if skipped:
        raise typer.Exit(ConfigError.exit_code)


def _read_material(experiment: RunConfig, card: Any) -> Any:
    """Read and draw what the run works with; what came of the user's own files is said on stderr."""
    from distill_client.material import Material
    from distill_client.report.reading import describe_reading

    def say(line: str) -> None:
        _err.print(line, highlight=False, markup=False, soft_wrap=True)

    if experiment.pool.is_of_files:
        say(f"reading pictures: {experiment.pool.source}")
    material = Material(experiment, card)
    for line in describe_reading(material.pool, material.test):
        say(line)
    return material


def _finish(folder: Any, material: Any, teacher_url: str, device: str, *, as_json: bool) -> None:
    from distill_client import pipeline
    from distill_client.report.progress import RunProgress

    torch_device = _require_device(device)
    try:
        with folder, _connected(teacher_url, folder.config, folder.record.teacher.version) as server:
            with RunProgress(_err) as progress:
                summary = pipeline.run(folder, material, server, progress, torch_device)
            _draw(folder, summary)
    except KeyboardInterrupt:
        typer.echo(f"\ndistill: stopped; `distill resume {folder.path}` goes on, nothing is paid for twice", err=True)
        # Requests in flight may wait for a slow teacher. Everything durable is on the disk: leave without them.
        os._exit(130)
    except DistillError as error:
        if error.exit_code in (3, 4):
            typer.echo(f"the run can go on later: distill resume {folder.path}", err=True)
        raise
    _print_summary(summary, folder.path, as_json=as_json)
    if not summary["audit"]["equal"]:
        raise AuditMismatch("; ".join(summary["audit"]["faults"]) or "the three counts differ")


def _draw(folder: Any, summary: dict[str, Any]) -> None:
    from distill_client.report.figure import draw_report
    from distill_client.results import sample_images

    draw_report(folder.figure_path, summary, folder.read_metrics(), sample_images(folder))


def _print_summary(summary: dict[str, Any], directory: Path, *, as_json: bool) -> None:
    from distill_client.report.table import results_table

    if as_json:
        typer.echo(json.dumps(summary))
    else:
        _out.print(results_table(summary))
        typer.echo(f"run folder: {directory} (summary.json, report.png, student/)")


@contextlib.contextmanager
def _connected(url: str, config: RunConfig, version: str | None = None) -> Iterator[Any]:
    from distill_client.teachers.native import announce_retries, connect

    secret = os.environ.get(KEY_VARIABLE, "")
    if not secret:
        raise ConfigError(f"{KEY_VARIABLE} is not set: put the key that the teacher's owner gave you into it")
    announce_retries(lambda sentence: _err.print(sentence, highlight=False, markup=False, soft_wrap=True))
    server = connect(url, secret, config.teacher.name, deadline_s=config.teacher.deadline_s, version=version)
    try:
        yield server
    finally:
        server.close()


def _require_device(name: str) -> Any:
    import torch

    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ConfigError(f"device is {name!r}; allowed are cpu, cuda and cuda:N") from error
    if device.type not in ("cpu", "cuda"):
        raise ConfigError(f"device is {name!r}; allowed are cpu, cuda and cuda:N")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ConfigError(f"device is {name!r}; this machine has {torch.cuda.device_count()} CUDA devices")
    return device
