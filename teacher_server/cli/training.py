"""`teacher train` and `teacher predict`: the owner's offline work."""

import shlex
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from shared.datasets import DATASET_NAMES, Skipped, Split
from shared.wire.contracts import Resize
from teacher_server.cli.options import AsJson, Device, TrustNetwork, parse_image_shape, trusted_networks
from teacher_server.cli.reporting import operator_mistakes, print_report, progress_out
from teacher_server.training.recipes import Precision, Schedule

if TYPE_CHECKING:
    from teacher_server.training.order import TrainingOrder

# Written out, because asking shared.networks would import torch for a help text; a test compares them.
NETWORK_HELP = (
    "lenet5, lenet5-half, alexnet, alexnet-half, resnet20, resnet32, torchvision:NAME, timm:NAME or your own "
    "module:function"
)
DATASET_HELP = f"{', '.join(DATASET_NAMES)}, or folder:PATH that holds train/CLASS/*.jpg and test/CLASS/*.jpg"


def train(
    dataset: Annotated[str, typer.Option(help=DATASET_HELP)],
    network: Annotated[str, typer.Option(help=NETWORK_HELP)],
    out: Annotated[Path, typer.Option(help="the bundle folder to make; must not exist")],
    device: Device = "cpu",
    seed: Annotated[int, typer.Option(help="of initial weights, order and augmentation")] = 1,
    epochs: Annotated[int | None, typer.Option(help="passes over the training split (default: the recipe's)")] = None,
    schedule: Annotated[
        Schedule | None, typer.Option(help="of the learning rate (default: the recipe's; the paper's is constant)")
    ] = None,
    precision: Annotated[
        Precision,
        typer.Option(help="bfloat16 computes the network under autocast, faster on a GPU or with AMX"),
    ] = "float32",
    threads: Annotated[int | None, typer.Option(help="CPU threads (default: the recipe's, 1)")] = None,
    size: Annotated[
        str | None, typer.Option(help="HxWxC that images of another size are brought to, such as 64x64x3")
    ] = None,
    resize: Annotated[Resize, typer.Option(help="how; the bundle declares it for files sent to it")] = "crop",
    name: Annotated[str, typer.Option(help="the teacher's name (default: DATASET-NETWORK)")] = "",
    version: Annotated[str, typer.Option(help="its version; another model needs another")] = "1",
    as_json: AsJson = False,
) -> None:
    """Train a teacher on a labelled data set and write it as a bundle, with its measured test accuracy.

    Stopped or killed on its way, the same command goes on from the last whole epoch (saved every ten seconds). The
    bundle is there whole or not at all.
    """
    from teacher_server.training.order import TrainingOrder
    from teacher_server.training.training import train_and_write_bundle

    order = TrainingOrder(
        dataset=dataset,
        network=network,
        seed=seed,
        device=device,
        epochs=epochs,
        schedule=schedule,
        precision=precision,
        threads=threads,
        size=parse_image_shape(size, "size") if size else None,
        resize=resize,
        name=name,
        version=version,
    )
    order = replace(order, command=_command(order, out))
    with operator_mistakes(), _goes_on(), _training_progress() as progress:
        bundle = train_and_write_bundle(order, out, progress=progress, skipped=_name_skipped, warn=_warn)
    _print_trained(out, bundle.manifest, as_json=as_json)


def _command(order: "TrainingOrder", out: Path) -> str:
    """The command as the bundle records it: what was given, and the defaults that matter."""
    flags = {
        "dataset": order.dataset,
        "network": order.network,
        "out": out,
        "device": order.device,
        "seed": order.seed,
        "epochs": order.epochs,
        "schedule": order.schedule,
        "precision": None if order.precision == "float32" else order.precision,
        "threads": order.threads,
        "size": "x".join(map(str, order.size)) if order.size else None,
        "resize": order.resize if order.size else None,
        "name": order.name or None,
        "version": None if order.version == "1" else order.version,
    }
    given = [f"--{flag} {shlex.quote(str(value))}" for flag, value in flags.items() if value is not None]
    return " ".join(["teacher train", *given])


def predict(
    bundle: Annotated[Path, typer.Option(help="a teacher bundle folder")],
    dataset: Annotated[str, typer.Option(help=DATASET_HELP)],
    out: Annotated[Path, typer.Option(help="the .npz file to write")],
    split: Annotated[Literal["train", "test"], typer.Option(help="train or test")] = "test",
    trust_network: TrustNetwork = None,
    device: Device = "cpu",
    as_json: AsJson = False,
) -> None:
    """Write the teacher's answers on a data set to a file: the owner's offline way, for measuring agreement.

    Nothing on the network does this; give the file to whoever may know how well a student agrees.
    """
    from shared.wire.teacher_answers import write_teacher_answers
    from teacher_server.teachers.bundle import load_bundle
    from teacher_server.training.prediction import predict_split

    with operator_mistakes():
        answers = predict_split(
            load_bundle(bundle), dataset, split, device=device, trusted_networks=trusted_networks(trust_network)
        )
        write_teacher_answers(out, answers)
    images = len(answers.probabilities_nk)
    print_report({"answers": str(out), "images": images}, f"{out}: answers to {images} images", as_json=as_json)


def _print_trained(out: Path, manifest: Any, *, as_json: bool) -> None:
    measured = manifest.measured
    assert measured is not None  # training measures
    report = {
        "bundle": str(out),
        "name": manifest.name,
        "version": manifest.version,
        "test_accuracy": measured.test_accuracy,
        "test_images": measured.test_images,
    }
    print_report(
        report,
        f"{out}: {manifest.name}, {measured.test_accuracy:.2%} of {measured.test_images} test images",
        as_json=as_json,
    )


def _name_skipped(split: Split, skipped: tuple[Skipped, ...]) -> None:
    progress_out.print(f"{split}: {len(skipped)} files skipped")
    for each in skipped:
        progress_out.print(f"  {each.file}: {each.reason}", markup=False)


def _warn(message: str) -> None:
    progress_out.print(f"teacher: {message}", markup=False)


@contextmanager
def _goes_on() -> Iterator[None]:
    """Who stops a training with Ctrl-C is told that it is not lost; the exit code stays 130."""
    try:
        yield
    except KeyboardInterrupt:
        progress_out.print("teacher: stopped; the same command goes on from the last epoch that was saved")
        raise


@contextmanager
def _training_progress() -> Iterator[Callable[[int, int, float], None]]:
    """Steps done, loss and time left on stderr: a bar on a terminal, elsewhere a line every half minute."""
    if not progress_out.is_terminal:
        yield _ProgressLines()
        return
    columns = (TextColumn("training"), BarColumn(), MofNCompleteColumn(), TextColumn("loss {task.fields[loss]:.3f}"))
    with Progress(*columns, TimeRemainingColumn(), console=progress_out) as bar:
        task = bar.add_task("training", total=None, loss=float("nan"))
        yield lambda step, steps, loss: bar.update(task, completed=step, total=steps, loss=loss)


class _ProgressLines:
    """For logs: a line now and then. The time left comes from the steps of this process alone."""

    def __init__(self, every_s: float = 30.0) -> None:
        self._every_s = every_s
        self._first: tuple[int, float] | None = None
        self._told = float("-inf")

    def __call__(self, step: int, steps: int, loss: float) -> None:
        now = time.monotonic()
        first_step, first_time = self._first = self._first or (step, now)
        if now - self._told < self._every_s and step < steps:
            return
        self._told = now
        left = (
            f", {(steps - step) * (now - first_time) / (step - first_step) / 60:.0f} min left"
            if step > first_step
            else ""
        )
        progress_out.print(f"step {step} of {steps}, loss {loss:.3f}{left}")
