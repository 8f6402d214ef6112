"""`teacher train` and `teacher predict`: the owner's offline work."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from shared.datasets import DATASET_NAMES
from teacher_server.cli.options import AsJson, Device
from teacher_server.cli.reporting import operator_mistakes, print_report, progress_out


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
