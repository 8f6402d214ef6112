"""A run's results as one picture: the accuracies, what was bought, and how the losses fell."""

from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from distill_client.report.rounds import draw_rounds
from distill_client.report.table import accuracies

_SHORT = {
    "teacher_accuracy": "teacher",
    "student_alone": "student-alone",
    "standard_kd": "standard-kd",
    "student_accuracy": "our student",
}
_COLOURS = {"teacher": "#777777", "student-alone": "#9ecae1", "standard-kd": "#4292c6", "our student": "#e6550d"}
_COLUMNS = 8


def draw_report(
    path: Path,
    summary: dict[str, Any],
    metrics: list[dict[str, Any]],
    samples: dict[str, tuple[NDArray[np.uint8], list[str]]],
) -> None:
    """Write the picture as PNG. ``samples``: per stage, uint8 images_nhwc and the teacher's top class of each."""
    with mpl.rc_context({"font.size": 9, "axes.spines.top": False, "axes.spines.right": False}):
        figure = Figure(figsize=(11, 6.2), layout="constrained")
        top, bottom = figure.subfigures(2, 1, height_ratios=[1, 0.95], squeeze=False)[:, 0]
        bars, losses, *more = top.subplots(1, 3 if _has_curve(summary) else 2)
        _draw_accuracies(bars, summary)
        _draw_losses(losses, metrics)
        for axes in more:
            draw_rounds(axes, summary["rounds"])
        _draw_samples(bottom, samples)
        figure.suptitle(_title(summary))
        unfinished = path.with_name(path.name + ".tmp")
        figure.savefig(unfinished, format="png", dpi=130)
        unfinished.replace(path)


def _has_curve(summary: dict[str, Any]) -> bool:
    return bool(summary.get("rounds", {}).get("measured"))


def _title(summary: dict[str, Any]) -> str:
    images = summary["images"]
    bought = f"{summary['name']}: {images['bought']:,} answers bought"
    if "charged_by_server" in images:
        charged, logged = images["charged_by_server"], images["in_audit_log"]
        return f"{bought}, {charged:,} charged by the server, {logged:,} in its audit log"
    return (
        f"{bought}; by the client's own count {images['spent']:,} spent of {images['granted']:,} allowed, "
        f"{images['unsettled_images']:,} of them not known whether charged"
    )


def _draw_accuracies(axes: Axes, summary: dict[str, Any]) -> None:
    found = {_SHORT[key]: 100 * value for key, value in accuracies(summary).items() if value is not None}
    if not found:
        axes.set_axis_off()
        axes.set_title("no test set, so no accuracies", fontsize=9)
        return
    names, values = list(found), list(found.values())
    drawn = axes.barh(names[::-1], values[::-1], color=[_COLOURS[name] for name in names[::-1]])
    axes.bar_label(drawn, fmt="%.2f %%", padding=3)
    axes.set_xlim(max(0.0, min(values) - 6), min(100.0, max(values) + 2.5))
    agreed = summary["agreement"]
    title = (
        f"accuracy on {summary['test_images']:,} test images" if summary["test_images"] else "accuracy (no test set)"
    )
    axes.set_xlabel("% (the axis does not start at zero)")
    if agreed is not None:
        title += f"\nagreement with the teacher {agreed:.2%}, on {summary['agreement_images']:,} of its answers"
    axes.set_title(title, fontsize=9)


def _draw_losses(axes: Axes, metrics: list[dict[str, Any]]) -> None:
    for contender in dict.fromkeys(row["contender"] for row in metrics):
        rows = [row for row in metrics if row["contender"] == contender]
        name = {"student": "our student"}.get(contender, contender.replace("_", "-"))
        steps, losses = [row["step"] for row in rows], [row["loss"] for row in rows]
        axes.plot(steps, losses, label=name, color=_COLOURS.get(name))
    axes.set_title("training loss (cross-entropy with the targets)", fontsize=9)
    axes.set_xlabel("step")
    if metrics:
        axes.legend(frameon=False)


def _draw_samples(figure: Any, samples: dict[str, tuple[NDArray[np.uint8], list[str]]]) -> None:
    """A row of images for each stage: one image to matplotlib, for which axes are what costs."""
    rows = np.atleast_1d(figure.subplots(len(samples), 1))
    for axes, (stage, (images_nhwc, labels)) in zip(rows, samples.items(), strict=True):
        height, width, channels = images_nhwc.shape[1:]
        pitch = max(height * 7 // 4, width + 2)  # room for the names of classes
        strip = np.full((height, _COLUMNS * pitch, channels), 0 if channels == 1 else 255, np.uint8)  # both are white
        for column, (image, label) in enumerate(zip(images_nhwc[:_COLUMNS], labels, strict=False)):
            left = column * pitch
            strip[:, left : left + width] = image
            axes.text(left + width / 2, -0.06 * height, label, ha="center", va="bottom", fontsize=7, parse_math=False)
        axes.imshow(strip[..., 0] if channels == 1 else strip, cmap="gray_r", vmin=0, vmax=255)
        axes.set_axis_off()
        axes.text(-0.01, 0.5, stage, transform=axes.transAxes, ha="right", va="center", fontsize=9)
