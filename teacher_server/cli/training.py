"""`teacher train` and `teacher predict`: the owner's offline work."""

import shlex
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from shared.datasets import DATASET_NAMES
from teacher_server.cli.options import AsJson, Device
from teacher_server.cli.reporting import operator_mistakes, print_report, progress_out
from teacher_server.training.recipes import Precision

# Written out, because asking shared.networks would import torch for a help text; a test compares them.
NETWORK_HELP = (
    "lenet5, lenet5-half, alexnet, alexnet-half, resnet20, resnet32, torchvision:NAME, timm:NAME or your own "
    "module:function"
)


def train(
    dataset: Annotated[str, typer.Option(help=f"one of {', '.join(DATASET_NAMES)}")],
    network: Annotated[str, typer.Option(help=NETWORK_HELP)],
    out: Annotated[Path, typer.Option(help="the bundle folder to make; must not exist")],
    device: Device = "cpu",
    seed: Annotated[int, typer.Option(help="of initial weights, order and augmentation")] = 1,
    epochs: Annotated[int | None, typer.Option(help="passes over the training split (default: the recipe's)")] = None,
    precision: Annotated[
        Precision, typer.Option(help="bfloat16 computes the network under autocast, where that is faster")
    ] = "float32",
    threads: Annotated[int | None, typer.Option(help="CPU threads (default: the recipe's, 1)")] = None,
    name: Annotated[str, typer.Option(help="the teacher's name (default: DATASET-NETWORK)")] = "",
    as_json: AsJson = False,
) -> None:
    """Train a teacher on a labelled data set and write it as a bundle, with its measured test accuracy.

    Killed on its way, the same command goes on from the last whole epoch. The bundle is there whole or not at all.
    """
    from teacher_server.training.training import TrainingOrder, train_and_write_bundle

    flags = {
        "dataset": dataset,
        "network": network,
        "out": out,
        "device": device,
        "seed": seed,
        "epochs": epochs,
        "precision": None if precision == "float32" else precision,
        "threads": threads,
        "name": name or None,
    }
    given = [f"--{flag} {shlex.quote(str(value))}" for flag, value in flags.items() if value is not None]
    order = TrainingOrder(
        dataset=dataset,
        network=network,
        seed=seed,
        device=device,
        epochs=epochs,
        precision=precision,
        threads=threads,
        name=name,
        command=" ".join(["teacher train", *given]),
    )
    with operator_mistakes(), _training_progress() as progress:
        bundle = train_and_write_bundle(order, out, progress=progress)
    measured = bundle.manifest.measured
    report = {
        "bundle": str(out),
        "name": bundle.manifest.name,
        "version": bundle.manifest.version,
        "test_accuracy": measured.test_accuracy,
        "test_images": measured.test_images,
    }
    print_report(
        report,
        f"{out}: {bundle.manifest.name}, {measured.test_accuracy:.2%} of {measured.test_images} test images",
        as_json=as_json,
    )


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

    with operator_mistakes():
        answers = predict_split(load_bundle(bundle), dataset, split, device=device)
        write_teacher_answers(out, answers)
    images = len(answers.probabilities_nk)
    print_report({"answers": str(out), "images": images}, f"{out}: answers to {images} images", as_json=as_json)


@contextmanager
def _training_progress() -> Iterator[Callable[[int, int, float], None]]:
    """A progress bar on stderr: steps done, loss, time left."""
    columns = (TextColumn("training"), BarColumn(), MofNCompleteColumn(), TextColumn("loss {task.fields[loss]:.3f}"))
    with Progress(*columns, TimeRemainingColumn(), console=progress_out) as bar:
        task = bar.add_task("training", total=None, loss=float("nan"))
        yield lambda step, steps, loss: bar.update(task, completed=step, total=steps, loss=loss)
