"""A run's results as tables for the terminal."""

from decimal import Decimal
from typing import Any

from rich.console import Group
from rich.table import Table
from rich.text import Text

from distill_client.plan import PlanCost
from distill_client.report.rounds import rounds_table
from distill_client.teachers.paid.allowance import Allowance, money

CONTENDERS = {
    "teacher_accuracy": "teacher (as its owner measured it)",
    "student_alone": "student-alone (true labels of the pool)",
    "standard_kd": "standard-kd (answers to the pool only)",
    "student_accuracy": "our student (pool + synthetic images)",
}


# What ``images`` of summary.json counts, in the order in which it is shown: the first three where a server counts,
# the others where only the client does.
COUNTS = {
    "bought": "counted by the client",
    "charged_by_server": "charged by the server",
    "in_audit_log": "in the audit log",
    "asked": "asked for",
    "released": "not charged, as the teacher said",
    "answered": "answered",
    "failed": "charged without an answer",
    "unsettled_images": "not known whether charged",
    "spent": "count as spent",
    "granted": "allowed",
}


def described_counts(images: dict[str, Any]) -> dict[str, int]:
    """Those of a summary's counts of images that are there, by what they are called."""
    return {what: images[key] for key, what in COUNTS.items() if key in images}


_TWO_POOLS = "real images touched, in two pools"


def _whose(summary: dict[str, Any]) -> str:
    return ": they are the client's own" if summary["audit"].get("counted_by") == "client" else ""


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

    counts = Table("images", "count", min_width=58)
    for what, count in _planned(summary["images"]) + list(described_counts(summary["images"]).items()):
        counts.add_row(what, f"{count:,}")
    counts.add_section()
    counts.add_row("all rows agree" if summary["audit"]["equal"] else "ROWS DISAGREE: distill audit", "")
    if receipts := summary["audit"].get("receipts"):
        counts.add_row("answers with a verified receipt", f"{receipts:,}")
    else:
        counts.add_row(f"counts not proved by receipts{_whose(summary)}", "")
    if (cost := summary.get("cost")) and Decimal(cost["price_per_image"]):
        counts.add_row("cost, of what counts as spent", money(Decimal(cost["spent"]), cost["currency"]))
        if unsettled := Decimal(cost["unsettled"]):
            counts.add_row("of that not known whether charged", money(unsettled, cost["currency"]))

    seconds = Table("phase", "seconds", min_width=58)
    for phase, spent in summary["seconds"].items():
        seconds.add_row(phase.replace("_", " "), f"{spent:.1f}")
    seconds.add_section()
    seconds.add_row("in all", f"{sum(summary['seconds'].values()):.1f}")
    faults = summary.get("pool_fit", {}).get("warnings", [])
    warnings = [Text(f"warning: the pool does not seem to fit the teacher: {fault}") for fault in faults]
    rounds = [rounds_table(summary["rounds"])] if "rounds" in summary else []
    return Group(scores, *rounds, counts, seconds, *warnings)


def _planned(images: dict[str, Any]) -> list[tuple[str, int]]:
    """What was to be bought, and what of it is no purchase of its own."""
    not_bought = images.get("not_bought", {})
    by_phase = ", ".join(f"{count:,} {phase}" for phase, count in {**images["by_phase"], **not_bought}.items())
    rows = [(f"planned ({by_phase})", images["planned"])]
    if not_bought:
        rows.append(("of these not bought, when it no longer paid", sum(not_bought.values())))
    if repeated := images.get("repeated"):
        rows.append(("of these equal to others, and bought once", repeated))
    if "second_pool" in images["by_phase"]:
        rows.append((_TWO_POOLS, images["real"]))
    return rows


def _accuracy(summary: dict[str, Any], key: str, value: float | None) -> str:
    if value is not None:
        return f"{value:.2%}"
    return "no test set" if summary["test_images"] == 0 and key != "teacher_accuracy" else "not run"


def plan_table(
    cost: PlanCost,
    *,
    budget_images: int,
    requests: int,
    allowance: Allowance | None = None,
    is_the_most: bool = False,
) -> Table:
    """What a run would buy, phase by phase, against its budget, and what a teacher's file allows.

    With ``is_the_most`` the run may stop before it has bought all of that.
    """
    table = Table("phase", "images", title="what would be bought", min_width=40)
    for phase, images in cost.phases().items():
        table.add_row(phase, f"{images:,}")
    table.add_section()
    table.add_row("at most; less where a round adds too little" if is_the_most else "in all", f"{cost.total:,}")
    if cost.second_pool:
        table.add_row(_TWO_POOLS, f"{cost.real:,}")
    table.add_row("budget", f"{budget_images:,}")
    table.add_row("left over", f"{budget_images - cost.total:,}")
    table.add_row("requests, at least", f"{requests:,}")
    for what, told in describe_allowance(allowance, cost.total).items() if allowance else ():
        table.add_row(what, told)
    return table


def describe_allowance(allowance: Allowance, images: int) -> dict[str, str]:
    """What so many images cost, and how far the teacher's file allows to go; by what each is called."""
    told = {"allowed by the teacher's file": f"{allowance.granted():,}"}
    if allowance.price_per_image:
        told["price of an image"] = money(allowance.price_per_image, allowance.currency)
        told["price in all"] = money(allowance.cost_of(images), allowance.currency)
    if allowance.max_cost is not None:
        told["max_cost"] = money(allowance.max_cost, allowance.currency)
    return told
