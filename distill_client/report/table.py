"""A run's results as tables for the terminal."""

from typing import Any

from rich.console import Group
from rich.table import Table

from distill_client.plan import PlanCost

CONTENDERS = {
    "teacher_accuracy": "teacher (as its owner measured it)",
    "student_alone": "student-alone (true labels of the pool)",
    "standard_kd": "standard-kd (answers to the pool only)",
    "student_accuracy": "our student (pool + synthetic images)",
}


def accuracies(summary: dict[str, Any]) -> dict[str, float | None]:
    """The four accuracies under the keys of ``CONTENDERS``; None where a baseline was left out."""
    flat = {**summary, **summary["baselines"]}
    return {key: flat[key] for key in CONTENDERS}


def results_table(summary: dict[str, Any]) -> Group:
    """Accuracies, agreement, the three counts and the seconds of a finished run."""
    scores = Table("on the test set", "accuracy", title=f"{summary['name']} (seed {summary['seed']})", min_width=58)
    for key, value in accuracies(summary).items():
        scores.add_row(CONTENDERS[key], _accuracy(summary, key, value))
    agreed, other = summary["agreement"], summary.get("standard_kd_agreement")
    scores.add_section()
    on = f"{summary['agreement_images']:,} images: {summary['agreement_on']}"
    scores.add_row(f"agreement with the teacher\n({on})", "not measured" if agreed is None else f"{agreed:.2%}")
    if other is not None:
        scores.add_row("the same of standard-kd", f"{other:.2%}")

    images = summary["images"]
    counts = Table("images", "count", min_width=58)
    by_phase = ", ".join(f"{count:,} {phase}" for phase, count in images["by_phase"].items())
    counts.add_row(f"planned ({by_phase})", f"{images['planned']:,}")
    counts.add_row("counted by the client", f"{images['bought']:,}")
    counts.add_row("charged by the server", f"{images['charged_by_server']:,}")
    counts.add_row("in the audit log", f"{images['in_audit_log']:,}")
    counts.add_section()
    counts.add_row("all rows agree" if summary["audit"]["equal"] else "ROWS DISAGREE: distill audit", "")
    if receipts := summary["audit"].get("receipts"):
        counts.add_row("answers with a verified receipt", f"{receipts:,}")
    else:
        counts.add_row("counts not proved by receipts", "")

    seconds = Table("phase", "seconds", min_width=58)
    for phase, spent in summary["seconds"].items():
        seconds.add_row(phase.replace("_", " "), f"{spent:.1f}")
    seconds.add_section()
    seconds.add_row("in all", f"{sum(summary['seconds'].values()):.1f}")
    return Group(scores, counts, seconds)


def _accuracy(summary: dict[str, Any], key: str, value: float | None) -> str:
    if value is not None:
        return f"{value:.2%}"
    return "no test set" if summary["test_images"] == 0 and key != "teacher_accuracy" else "not run"


def plan_table(cost: PlanCost, *, budget_images: int, requests: int) -> Table:
    """What a run would buy, phase by phase, against its budget."""
    table = Table("phase", "images", title="what would be bought", min_width=40)
    for phase in ("pool", "mixup", "cvae"):
        table.add_row(phase, f"{getattr(cost, phase):,}")
    table.add_section()
    table.add_row("in all", f"{cost.total:,}")
    table.add_row("budget", f"{budget_images:,}")
    table.add_row("left over", f"{budget_images - cost.total:,}")
    table.add_row("requests, at least", f"{requests:,}")
    return table
