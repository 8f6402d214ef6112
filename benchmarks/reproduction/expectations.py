"""What the client expects of a plan, from the results: the curves in `distill_client/measured_curves.json`.

`benchmarks/results_page.py` writes them with everything else that is made of the results.
"""

import math
import statistics
import tomllib
from collections import defaultdict
from collections.abc import Iterable, Sequence

from pydantic import BaseModel

from benchmarks.reproduction.outcomes import Outcome, Section
from distill_client.expectation import POOL_ALONE, Curve, Point, samples_of


class _Table(BaseModel):
    curves: list[Curve]


def measured_curves(sections: Sequence[Section]) -> str:
    """The table's text. Only where more than one seed was run; of the pool alone, only what is varied like ours."""
    found: dict[tuple[str, ...], dict[int, Outcome]] = defaultdict(dict)
    for section in sections:
        for outcome in section.outcomes:
            case, config = outcome.experiment.case, outcome.experiment.config
            is_usual = case.pool == "balanced" and case.pool_dataset is None and case.teacher is None
            is_usual = is_usual and not config.synthesis.has_second_pool
            is_ours_or_buys = config.synthesis.images or config.student.augmentation != "none"
            if section.group.section == "case" or not is_usual or not is_ours_or_buys or not outcome.rows:
                continue
            method = config.synthesis.method if config.synthesis.images else POOL_ALONE
            key = (case.dataset, method, outcome.student, config.training.optimiser, case.disclosure)
            found[key].setdefault(outcome.answers, outcome)
    curves = [
        _curve(key, [by_answers[answers] for answers in sorted(by_answers)]) for key, by_answers in found.items()
    ]
    kept = sorted((curve for curve in curves if curve is not None), key=lambda curve: curve.model_dump_json())
    return _Table(curves=kept).model_dump_json(indent=1) + "\n"


def _curve(key: tuple[str, ...], outcomes: Sequence[Outcome]) -> Curve | None:
    """None where nothing is known of how seeds differ."""
    deviation = _pooled([[row.result.accuracy for row in outcome.rows] for outcome in outcomes])
    if deviation is None:
        return None
    dataset, method, student, optimiser, disclosure = key
    manifest = tomllib.loads((outcomes[0].experiment.bundle / "teacher.toml").read_text(encoding="utf-8"))
    size = manifest["input"]
    return Curve(
        dataset=dataset,
        image=f"{size['height']}x{size['width']}x{size['channels']}",
        classes=len(manifest["classes"]),
        method=method,
        student=student,
        optimiser=optimiser,
        disclosure=disclosure,
        teacher_accuracy=manifest["measured"]["test_accuracy"],
        deviation=round(deviation, 5),
        points=tuple(map(_point, outcomes)),
    )


def _point(outcome: Outcome) -> Point:
    config, accuracies = outcome.experiment.config, [row.result.accuracy for row in outcome.rows]
    return Point(
        answers=outcome.answers,
        pool_images=config.pool.images,
        samples=samples_of(config, outcome.answers, outcome.experiment.case.disclosure),
        accuracy=round(statistics.mean(accuracies), 5),
        seeds=len(accuracies),
    )


def _pooled(groups: Iterable[Sequence[float]]) -> float | None:
    """The standard deviation within groups of runs that differ by their seed alone; None where each is alone."""
    several = [group for group in groups if len(group) > 1]
    freedom = sum(len(group) - 1 for group in several)
    if not freedom:
        return None
    return math.sqrt(sum(statistics.variance(group) * (len(group) - 1) for group in several) / freedom)
