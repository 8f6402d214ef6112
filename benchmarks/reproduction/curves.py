"""Accuracy against answers bought, as a picture whose name is its data's digest, so that an old one is noticed."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl
from matplotlib.figure import Figure as Canvas
from matplotlib.ticker import FuncFormatter, NullFormatter, NullLocator

from benchmarks.reproduction.outcomes import Outcome
from benchmarks.reproduction.published import PUBLISHED, TARGETS

_COLOURS = {
    "ours": "#e6550d",
    "fs-bbt": "#3182bd",
    "bbkd": "#31a354",
    "standard-kd-tuned": "#000000",
    "standard-kd": "#969696",
}
_LABELS = {
    "ours": "ours",
    "fs-bbt": "FS-BBT, one pool",
    "bbkd": "BBKD",
    "standard-kd-tuned": "the pool alone, our schedule for few",
    "standard-kd": "the pool alone, standard-kd",
}
_DIVBFKD = "#9e9ac8"

Point = tuple[int, float, float]  # answers bought, mean, deviation (0 of a single run), both in percent


def points_of(outcomes: Sequence[Outcome]) -> dict[str, list[Point]]:
    """By method, the points that were measured, from few answers to many."""
    found: dict[str, list[Point]] = {}
    for outcome in sorted(outcomes, key=lambda each: each.answers):
        if outcome.accuracy is not None and outcome.experiment.case.method in _COLOURS:
            point = (outcome.answers, round(outcome.accuracy.mean, 4), round(outcome.accuracy.deviation or 0.0, 4))
            found.setdefault(outcome.experiment.case.method, []).append(point)
    return {method: found[method] for method in _COLOURS if method in found}


def curve_name(dataset: str, student: str, points: dict[str, list[Point]]) -> str:
    """The picture's file name: what it is of, and a digest of what it shows."""
    shown = json.dumps([points, [str(each) for each in PUBLISHED[dataset, student]]], sort_keys=True)
    return f"{dataset}-{student}-{hashlib.sha256(shown.encode()).hexdigest()[:12]}.svg"


def draw_curve(path: Path, dataset: str, student: str, points: dict[str, list[Point]]) -> None:
    """Write the picture as SVG: a line for each method with a band of one deviation, the published ones as marks."""
    target = TARGETS[dataset, student]
    with mpl.rc_context(
        {"font.size": 10, "axes.spines.top": False, "axes.spines.right": False, "svg.hashsalt": path.stem}
    ):
        canvas = Canvas(figsize=(7.2, 4.2), layout="constrained")
        axes = canvas.subplots()
        for method, line in points.items():
            answers, means, deviations = (list(column) for column in zip(*line, strict=True))
            axes.plot(answers, means, marker="o", ms=4, color=_COLOURS[method], label=_LABELS[method])
            low = [mean - deviation for mean, deviation in zip(means, deviations, strict=True)]
            high = [mean + deviation for mean, deviation in zip(means, deviations, strict=True)]
            axes.fill_between(answers, low, high, color=_COLOURS[method], alpha=0.2, lw=0)
        published = {each.who: each for each in PUBLISHED[dataset, student]}
        colour, said = _COLOURS["fs-bbt"], "FS-BBT, published"
        axes.scatter([target.budget], [target.fs_bbt], marker="*", s=90, color=colour, label=said)
        theirs = published["DivBFKD"]
        said = f"DivBFKD, published, with {theirs.asked.removeprefix('about ')} answers"
        axes.axhline(theirs.accuracy, color=_DIVBFKD, ls="--", lw=1, label=said)
        axes.set_xscale("log")
        ticks = sorted({answers for line in points.values() for answers, _, _ in line} | {target.budget})
        axes.set_xticks(ticks)
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{int(value):,}"))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.tick_params(axis="x", rotation=30)
        axes.set_xlabel("answers bought, the pool's included")
        axes.set_ylabel("test accuracy (%)")
        axes.set_title(target.title)
        axes.grid(alpha=0.25)
        axes.legend(frameon=False, fontsize=9, loc="lower right")
        path.parent.mkdir(parents=True, exist_ok=True)
        canvas.savefig(path, format="svg", metadata={"Date": None, "Creator": None})
