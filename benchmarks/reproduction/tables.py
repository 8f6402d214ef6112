"""The tables of docs/results.md and of the README, as Markdown, from the outcomes alone."""

import math
from collections.abc import Iterable, Sequence

from benchmarks.reproduction.outcomes import USUAL_SEEDS, Figure, Outcome, Section
from benchmarks.reproduction.published import DATASETS, PUBLISHED, STUDENTS, TARGETS, Published, Target
from shared.counting import counted

METHODS = {
    "standard-kd": "standard-kd: answers to the pool only",
    "standard-kd-tuned": "standard-kd, under our schedule for few answers",
    "fs-bbt": "FS-BBT, one pool",
    "fs-bbt-tuned": "FS-BBT's queries, under our schedule",
    "fs-bbt-as-released": "FS-BBT as released, two pools",
    "bbkd": "BBKD, active MixUp",
    "wgan-gp": "WGAN-GP, class-balanced, small",
    "ours": "**ours**",
}
STUDENT_ALONE = {
    "standard-kd": "student-alone: true labels of the pool",
    "standard-kd-tuned": "student-alone, under that schedule",
}
ON_CURVES = ("standard-kd", "standard-kd-tuned", "fs-bbt", "bbkd", "ours")
NOT_RUN = "not run yet"


def main_tables(sections: Sequence[Section]) -> str:
    """One table for each data set and student: every method of the main groups beside what was published."""
    outcomes = [outcome for section in sections if section.group.section == "main" for outcome in section.outcomes]
    parts = []
    for (dataset, student), target in TARGETS.items():
        same = [each for each in outcomes if (each.experiment.case.dataset, each.student) == (dataset, student)]
        parts.append(f"### {target.title}\n\n{_main_table(same, target, PUBLISHED[dataset, student])}")
    return "\n\n".join(parts)


def _main_table(outcomes: list[Outcome], target: Target, published: Iterable[Published]) -> str:
    lines = _head("", "answers bought", "accuracy", "agreement", "CPU s", "repeat it")
    lines += [_row("teacher", "", f"{accuracy:.2f} %", "", "", "") for accuracy in _teachers(outcomes)]
    ordered = sorted(outcomes, key=lambda each: list(METHODS).index(each.experiment.case.method))
    for outcome in ordered:
        method, command = outcome.experiment.case.method, f"`{outcome.command}`"
        if method in STUDENT_ALONE and (alone := outcome.baseline("student_alone")) is not None:
            lines.append(_row(STUDENT_ALONE[method], "0", str(alone[0]), str(alone[1]), "", command))
        figures = (_said(outcome.accuracy), _said(outcome.agreement), _seconds(outcome))
        lines.append(_row(METHODS[method], f"{outcome.answers:,}", *figures, command))
    for each in published:
        deviation = f" ± {each.deviation:.2f}" if each.deviation is not None else ""
        who = f"*published: {each.who} (teacher {each.teacher:.2f} %)*"
        lines.append(_row(who, f"*{each.asked}*", f"*{each.accuracy:.2f}{deviation} %*", "", "", ""))
    ours = _ours(outcomes, target.budget)
    reached = "" if ours is None else f": {_distance(ours, target.goal)}"
    lines.append(_row("goal", f"{target.budget:,}", f"{target.goal:.1f} %{reached}", "", "", ""))
    return "\n".join(lines)


def curve_table(outcomes: Sequence[Outcome]) -> str:
    """Accuracy by answers bought, a row for each count and a column for each method."""
    methods = [method for method in METHODS if any(each.experiment.case.method == method for each in outcomes)]
    lines = _head("answers bought", *(METHODS[method] for method in methods))
    for answers in sorted({each.answers for each in outcomes}):
        cells = []
        for method in methods:
            found = [e for e in outcomes if (e.experiment.case.method, e.answers) == (method, answers)]
            cells.append(_said(found[0].accuracy) if found else "")
        lines.append(_row(f"{answers:,}", *cells))
    return "\n".join(lines)


def curves(sections: Sequence[Section]) -> dict[tuple[str, str], list[Outcome]]:
    """What belongs to the curve of each data set and student that has one: answers counted as published, one pool."""
    wanted: dict[tuple[str, str], dict[tuple[str, int], Outcome]] = {
        (section.group.dataset, outcome.student): {}
        for section in sections
        if section.group.section == "curve"
        for outcome in section.outcomes
    }
    for section in sections:
        for outcome in section.outcomes if section.group.section in ("main", "curve") else ():
            found, method = wanted.get((section.group.dataset, outcome.student)), outcome.experiment.case.method
            if found is not None and method in ON_CURVES:
                found.setdefault((method, outcome.answers), outcome)
    return {key: list(found.values()) for key, found in wanted.items()}


def case_table(sections: Sequence[Section]) -> str:
    """The unfriendly cases: each group of the plan that is one, in its order."""
    lines = _head("", "", "student", "answers bought", "accuracy", "agreement", "CPU s", "repeat it")
    for section in sections:
        for outcome in section.outcomes if section.group.section == "case" else ():
            case = outcome.experiment.case
            about = section.group.about + ("" if case.disclosure == "probabilities" else f": `{case.disclosure}`")
            if case.teacher is not None:
                about += "".join(f" ({accuracy:.2f} %)" for accuracy in _teachers([outcome]))
            dataset, student = DATASETS[case.dataset], STUDENTS.get(outcome.student, outcome.student)
            figures = (_said(outcome.accuracy), _said(outcome.agreement), _seconds(outcome))
            where = (f"{dataset}: {about}", METHODS[case.method], student, f"{outcome.answers:,}")
            lines.append(_row(*where, *figures, f"`{outcome.command}`"))
    return "\n".join(lines)


def target_table(sections: Sequence[Section]) -> str:
    """What we aimed at, and how far we came: the whole budget, and FS-BBT's published accuracy with few answers."""
    head = ("", "goal", "ours", "", "FS-BBT published", "to be had with", "ours with so many, or fewer", "")
    lines = _head(*head)
    for (dataset, student), target in TARGETS.items():
        outcomes = _of_ours(sections, dataset, student)
        full = _ours(outcomes, target.budget)
        affordable = [each for each in outcomes if each.answers <= target.few and each.accuracy is not None]
        few = max(affordable, key=lambda each: each.answers, default=None)
        cells = [target.title, f"{target.goal:.1f} %", _said(full)]
        cells += ["" if full is None else _distance(full, target.goal)]
        cells += [f"{target.fs_bbt:.2f} %", f"{target.few:,}"]
        if few is None or few.accuracy is None:
            cells += [NOT_RUN, ""]
        else:
            reached = _distance(few.accuracy, target.fs_bbt)
            cells += [f"{few.accuracy} with {few.answers:,}", reached + _first_reaching(outcomes, target)]
        lines.append(_row(*cells))
    return "\n".join(lines)


def readme_table(sections: Sequence[Section]) -> str:
    """The few figures of the first screen: one row for each data set and student that was measured."""
    methods = {
        "standard-kd": "standard-kd",
        "standard-kd-tuned": "standard-kd, our schedule for few",
        "fs-bbt": "FS-BBT",
        "ours": "**ours**",
    }
    few_of = ("fs-bbt", "ours")
    few_titles = [f"{methods[method]}, few answers" for method in few_of]
    lines = _head("", *methods.values(), *few_titles, "published: FS-BBT; DivBFKD")
    for (dataset, student), target in TARGETS.items():
        outcomes = _of_method(sections, None, dataset, student)
        measured = [each for each in outcomes if each.accuracy is not None]
        if not any(each.experiment.case.method == "ours" for each in measured):
            continue
        cells = [_with_answers(_most(measured, method)) for method in methods]
        cells += [_with_answers(_most(measured, method, target.few)) for method in few_of]
        lines.append(_row(target.title, *cells, _published(PUBLISHED[dataset, student])))
    return "\n".join(lines) if len(lines) > 2 else "Nothing is measured yet."


def _most(measured: Sequence[Outcome], method: str, answers: float = math.inf) -> Outcome | None:
    """The outcome of a method with the most answers, and no more than these."""
    found = [each for each in measured if each.experiment.case.method == method and each.answers <= answers]
    return max(found, key=lambda each: each.answers, default=None)


def proof(sections: Sequence[Section]) -> str:
    """In a sentence, what all rows of the plan have in common."""
    rows = {row.last_receipt.event_hash: row for each in sections for out in each.outcomes for row in out.rows}
    images = sum(row.counts.charged_by_server for row in rows.values())
    receipts = sum(row.counts.receipts for row in rows.values())
    fewer = [row for row in rows.values() if row.counts.bought < row.counts.planned]
    repeated = sum(row.counts.planned - row.counts.bought for row in fewer)
    once = f" (in {len(fewer)} of them {repeated:,} images came out equal to others and were bought once)"
    return (
        f"{len(rows):,} runs, {images:,} images: planned, bought, charged by the server and in its audit log the "
        f"same in every run{once if fewer else ''}, and each of the {receipts:,} batches that they came in has a "
        "signed receipt."
    )


def _of_method(sections: Sequence[Section], method: str | None, dataset: str, student: str) -> list[Outcome]:
    """Outcomes of main groups and curves, each once, of one method or of all."""
    found: dict[tuple[str, int], Outcome] = {}
    for section in sections:
        for outcome in section.outcomes if section.group.section in ("main", "curve") else ():
            case = outcome.experiment.case
            if (case.dataset, outcome.student) == (dataset, student) and method in (None, case.method):
                found.setdefault((case.method, outcome.answers), outcome)
    return list(found.values())


def _of_ours(sections: Sequence[Section], dataset: str, student: str) -> list[Outcome]:
    return _of_method(sections, "ours", dataset, student)


def _ours(outcomes: Iterable[Outcome], answers: int) -> Figure | None:
    """Our accuracy with so many answers, where it was measured."""
    found = [each for each in outcomes if (each.experiment.case.method, each.answers) == ("ours", answers)]
    return found[0].accuracy if found else None


def _first_reaching(outcomes: Iterable[Outcome], target: Target) -> str:
    """From how many answers on our mean is FS-BBT's published accuracy, where fewer were not enough."""
    reaching = [(e.answers, e.accuracy) for e in outcomes if e.accuracy and e.accuracy.mean >= target.fs_bbt]
    answers, accuracy = min(reaching, key=lambda each: each[0], default=(0, None))
    return (
        ""
        if accuracy is None or answers <= target.few
        else f"; {_distance(accuracy, target.fs_bbt)} with {answers:,}"
    )


def _teachers(outcomes: Iterable[Outcome]) -> list[float]:
    """The teacher's accuracy, once, in percent; none where nothing was run."""
    return sorted({100 * row.teacher.accuracy for each in outcomes for row in each.rows})


def _with_answers(outcome: Outcome | None) -> str:
    return "" if outcome is None else f"{_said(outcome.accuracy)} ({outcome.answers:,})"


def _published(published: Iterable[Published]) -> str:
    told = {each.who: each for each in published}
    return "; ".join(f"{told[who].accuracy:.2f} ({told[who].asked})" for who in ("FS-BBT", "DivBFKD"))


def _said(figure: Figure | None) -> str:
    return NOT_RUN if figure is None else str(figure)


def _seconds(outcome: Outcome) -> str:
    return "" if outcome.cpu_seconds is None else f"{outcome.cpu_seconds:,.0f}"


def _distance(figure: Figure, goal: float) -> str:
    """Whether a mean is at a goal, in percent; with fewer seeds than usual that is said of them alone."""
    if figure.mean < goal:
        short = goal - figure.mean
        return f"{short:.2f} short" if short >= 0.01 else f"{short:.1g} short"
    return "reached" if figure.runs >= USUAL_SEEDS else f"reached by {counted(figure.runs, 'seed')} so far"


def _head(*cells: str) -> list[str]:
    return [_row(*cells), "|" + "---|" * len(cells)]


def _row(*cells: str) -> str:
    return "| " + " | ".join(cells) + " |"
