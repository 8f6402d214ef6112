"""The `teacher` command: make a teacher, issue keys, serve. What it prints with --json is one JSON object."""

import json
import logging
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from shared.datasets import DATASET_NAMES, DatasetUnavailable
from shared.wire.contracts import Disclosure
from teacher_server.errors import OperatorError, Refusal
from teacher_server.ledger import keys as ledger_keys
from teacher_server.ledger.database import hold_for_server, migrate, open_database
from teacher_server.settings import TeacherSettings

app = typer.Typer(
    help="Host a private image classifier and sell its answers, image by image.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
keys_app = typer.Typer(help="Issue and manage API keys; works while the server runs.", no_args_is_help=True)
ledger_app = typer.Typer(help="Look after the ledger file.", no_args_is_help=True)
app.add_typer(keys_app, name="keys")
app.add_typer(ledger_app, name="ledger")

Ledger = Annotated[str, typer.Option(envvar="TEACHER_LEDGER", help="where the ledger is: sqlite:///FILE")]
AsJson = Annotated[bool, typer.Option("--json", help="print one JSON object instead of text")]
Device = Annotated[str, typer.Option(help="cpu, cuda or cuda:N")]

_out = Console()
_progress_out = Console(stderr=True)


def main() -> None:
    """Entry point: expected failures are one line on stderr and exit code 2, never a traceback."""
    try:
        app()
    except OperatorError as error:
        typer.echo(f"teacher: {error}", err=True)
        raise SystemExit(2) from None
    except Refusal as refusal:
        cause = refusal.__cause__  # SQLAlchemy's own text has several lines; the driver's error has one
        typer.echo(f"teacher: {refusal.detail} ({getattr(cause, 'orig', cause)})", err=True)
        raise SystemExit(2) from None


@app.command()
def serve(
    bundle: Annotated[list[Path] | None, typer.Option(help="a teacher bundle folder; repeat for several")] = None,
    ledger: Annotated[str | None, typer.Option(help="where the ledger is: sqlite:///FILE")] = None,
    host: Annotated[str | None, typer.Option(help="address to listen on (default: 127.0.0.1)")] = None,
    port: Annotated[int | None, typer.Option(help="port; 0 takes a free one (default: 8000)")] = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda or cuda:N (default: cpu)")] = None,
    as_json: AsJson = False,
) -> None:
    """Serve teachers over HTTP until stopped. Every setting can also be given as TEACHER_NAME in the environment.

    Prints the address once it accepts requests.
    """
    import uvicorn

    from teacher_server.app import create_app
    from teacher_server.teachers.teacher import load_teacher

    settings = TeacherSettings.load(
        bundles=tuple(bundle) if bundle else None, ledger=ledger, host=host, port=port, device=device
    )
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    logging.getLogger("alembic").setLevel(logging.WARNING)
    with hold_for_server(settings.ledger), _listen(settings.host, settings.port) as listener:
        with _operator_mistakes():
            teachers = [load_teacher(folder, device=settings.device) for folder in settings.bundles]
        application = create_app(settings, teachers)
        url = f"http://{_url_host(settings.host)}:{listener.getsockname()[1]}"
        names = sorted(application.state.server.teachers)
        # The socket already listens: who connects from now on is answered as soon as the loop below runs.
        typer.echo(json.dumps({"url": url, "teachers": names}) if as_json else f"serving {', '.join(names)} at {url}")
        config = uvicorn.Config(application, log_config=None, access_log=False, server_header=False)
        uvicorn.Server(config).run(sockets=[listener])


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=1024)
    except (OSError, OverflowError) as error:
        raise OperatorError(f"cannot listen on host {host!r}, port {port}: {error}") from error


def _url_host(host: str) -> str:
    return f"[{host}]" if ":" in host else host


@app.command()
def train(
    dataset: Annotated[str, typer.Option(help=f"one of {', '.join(DATASET_NAMES)}")],
    network: Annotated[str, typer.Option(help="a published network: lenet5 or lenet5-half")],
    out: Annotated[Path, typer.Option(help="the bundle folder to make; must not exist")],
    device: Device = "cpu",
    seed: Annotated[int, typer.Option(help="of initial weights, order and augmentation")] = 1,
    epochs: Annotated[int | None, typer.Option(help="passes over the training split (default: the recipe's)")] = None,
    as_json: AsJson = False,
) -> None:
    """Train a teacher on a labelled data set and write it as a bundle, with its measured test accuracy."""
    from teacher_server.training.training import TrainingOrder, train_and_write_bundle

    command = f"teacher train --dataset {dataset} --network {network} --out {out} --device {device} --seed {seed}"
    order = TrainingOrder(
        dataset=dataset,
        network=network,
        seed=seed,
        device=device,
        epochs=epochs,
        command=command + (f" --epochs {epochs}" if epochs else ""),
    )
    with _operator_mistakes(), _training_progress() as progress:
        bundle = train_and_write_bundle(order, out, progress=progress)
    measured = bundle.manifest.measured
    report = {
        "bundle": str(out),
        "name": bundle.manifest.name,
        "version": bundle.manifest.version,
        "test_accuracy": measured.test_accuracy,
        "test_images": measured.test_images,
    }
    _print(
        report,
        f"{out}: {bundle.manifest.name}, {measured.test_accuracy:.2%} of {measured.test_images} test images",
        as_json=as_json,
    )


@app.command()
def predict(
    bundle: Annotated[Path, typer.Option(help="a teacher bundle folder")],
    dataset: Annotated[str, typer.Option(help=f"one of {', '.join(DATASET_NAMES)}")],
    out: Annotated[Path, typer.Option(help="the .npz file to write")],
    split: Annotated[Literal["train", "test"], typer.Option(help="train or test")] = "test",
    device: Device = "cpu",
    as_json: AsJson = False,
) -> None:
    """Write the teacher's answers on a data set to a file: the owner's offline way, for measuring agreement.

    Nothing on the network does this; give the file to whoever may know how well a student agrees.
    """
    from shared.wire.teacher_answers import write_teacher_answers
    from teacher_server.teachers.bundle import load_bundle
    from teacher_server.training.prediction import predict_split

    with _operator_mistakes():
        answers = predict_split(load_bundle(bundle), dataset, split, device=device)
        write_teacher_answers(out, answers)
    images = len(answers.probabilities_nk)
    _print({"answers": str(out), "images": images}, f"{out}: answers to {images} images", as_json=as_json)


@keys_app.command("create")
def create_key(
    ledger: Ledger,
    name: Annotated[str, typer.Option(help="who the key is for; never reused")],
    budget: Annotated[int, typer.Option(help="images it may buy answers for")],
    disclosure: Annotated[str, typer.Option(help="probabilities, top-k:K or label")] = "probabilities",
    expires: Annotated[str | None, typer.Option(help="2026-12-31 (to its end, UTC) or a full time")] = None,
    as_json: AsJson = False,
) -> None:
    """Issue a key and print its secret: the only time it is shown."""
    try:
        parsed = Disclosure.parse(disclosure)
    except ValueError as error:
        raise OperatorError(str(error)) from error
    expires_at = ledger_keys.parse_expiry(expires) if expires else None
    key, secret = ledger_keys.create_key(
        open_database(ledger, create=True), name=name, budget=budget, disclosure=parsed, expires_at=expires_at
    )
    _print({"key": secret, **_key_report(key)}, secret, as_json=as_json)
    if not as_json:
        _progress_out.print(f"key {name}: {budget} images, {parsed}. Shown once; only its hash is stored.")


@keys_app.command("list")
def list_keys(ledger: Ledger, as_json: AsJson = False) -> None:
    """Show every key with its budget."""
    reports = [_key_report(key) for key in ledger_keys.list_keys(open_database(ledger, create=False))]
    if as_json:
        typer.echo(json.dumps({"keys": reports}))
        return
    table = Table(*(["name", "granted", "spent", "remaining", "disclosure", "status", "expires"]))
    for report in reports:
        table.add_row(*[_cell(report[column.header]) for column in table.columns if isinstance(column.header, str)])
    _out.print(table)


@keys_app.command("grant")
def grant(
    ledger: Ledger,
    name: Annotated[str, typer.Option(help="which key")],
    images: Annotated[int, typer.Argument(help="how many images to add to its budget")],
    as_json: AsJson = False,
) -> None:
    """Add to a key's budget."""
    key = ledger_keys.grant_images(open_database(ledger, create=False), name=name, images=images)
    _print(_key_report(key), f"{name}: granted {key.granted}, spent {key.spent}", as_json=as_json)


@keys_app.command("revoke")
def revoke(ledger: Ledger, name: Annotated[str, typer.Option(help="which key")], as_json: AsJson = False) -> None:
    """Take a key out of use for ever."""
    key = ledger_keys.revoke_key(open_database(ledger, create=False), name=name)
    _print(_key_report(key), f"{name}: revoked at {key.revoked_at}", as_json=as_json)


@ledger_app.command("migrate")
def migrate_ledger(ledger: Ledger, as_json: AsJson = False) -> None:
    """Bring a ledger's schema to this program's version."""
    revision = migrate(ledger)
    _print({"ledger": ledger, "schema": revision}, f"{ledger}: schema {revision}", as_json=as_json)


def _key_report(key: ledger_keys.Key) -> dict[str, Any]:
    return {
        "name": key.name,
        **key.usage.model_dump(),
        "disclosure": str(key.disclosure),
        "status": key.status,
        "created": key.created_at,
        "expires": key.expires_at,
        "revoked": key.revoked_at,
    }


def _cell(value: object) -> str:
    return "" if value is None else str(value)


def _print(report: dict[str, Any], text: str, *, as_json: bool) -> None:
    typer.echo(json.dumps(report) if as_json else text)


@contextmanager
def _operator_mistakes() -> Iterator[None]:
    """Turn a bad bundle, data set, device or recipe, each of which says what is allowed, into an OperatorError."""
    try:
        yield
    except (ValueError, DatasetUnavailable, OSError) as error:
        raise OperatorError(str(error)) from error


@contextmanager
def _training_progress() -> Iterator[Callable[[int, int, float], None]]:
    """A progress bar on stderr: steps done, loss, time left."""
    columns = (TextColumn("training"), BarColumn(), MofNCompleteColumn(), TextColumn("loss {task.fields[loss]:.3f}"))
    with Progress(*columns, TimeRemainingColumn(), console=_progress_out) as bar:
        task = bar.add_task("training", total=None, loss=float("nan"))
        yield lambda step, steps, loss: bar.update(task, completed=step, total=steps, loss=loss)
