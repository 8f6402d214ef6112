"""`distill evaluate` and `distill predict`: what a finished run is worth, and its use; the teacher is not asked."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from distill_client.cli.options import AsJson, Device, RunDir, out, require_device
from distill_client.errors import ConfigError
from distill_client.run_folder import RunFolder, open_run


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

    torch_device = require_device(device)
    with open_run(directory) as folder:
        summary = pipeline.evaluate(folder, teacher_answers, torch_device)
        draw(folder, summary)
    print_summary(summary, directory, as_json=as_json)


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

    predictions, skipped = predict_files(open_run(directory), images, require_device(device))
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


def draw(folder: RunFolder, summary: dict[str, Any]) -> None:
    """Write the picture of a run's results."""
    from distill_client.report.figure import draw_report
    from distill_client.results import sample_images

    draw_report(folder.figure_path, summary, folder.read_metrics(), sample_images(folder))


def print_summary(summary: dict[str, Any], directory: Path, *, as_json: bool) -> None:
    """A run's results for people, or as one JSON object."""
    from distill_client.report.table import results_table

    if as_json:
        typer.echo(json.dumps(summary))
    else:
        out.print(results_table(summary))
        typer.echo(f"run folder: {directory} (summary.json, report.png, student/)")
