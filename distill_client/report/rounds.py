"""What each round of a run added that buys until it is flat: a table for the terminal, a panel of the picture."""

from typing import Any

from matplotlib.axes import Axes
from rich.console import Group
from rich.table import Table
from rich.text import Text


def rounds_table(rounds: dict[str, Any]) -> Group:
    """Round by round what was bought and what it added, and why it went on or stopped: of ``summary["rounds"]``."""
    table = Table("after round", "answers", "held out", "agreement", "added", min_width=58)
    for one in rounds["measured"]:
        agreement, added = "not measured", "-"
        if one["gain"] is not None:
            before, after = (student["agreement"] for student in one["students"][-2:])
            agreement, added = f"{before:.2f} to {after:.2f} %", f"{one['gain']:+.2f} ± {one['gain_error']:.2f}"
        table.add_row(str(one["round"]), f"{one['bought']:,}", f"{one['held_out']:,}", agreement, added)
    return Group(table, Text(rounds["sentence"]))


def draw_rounds(axes: Axes, rounds: dict[str, Any]) -> None:
    """The students' agreement on the real images held out, by the last measurement, and what the rest would add."""
    last = rounds["measured"][-1]
    bought = [student["bought"] for student in last["students"]]
    agreements = [student["agreement"] for student in last["students"]]
    axes.plot(bought, agreements, marker="o", color="#e6550d")
    axes.set_title(f"agreement on {last['held_out']:,} real images held out", fontsize=9)
    axes.set_xlabel("answers bought")
    axes.set_ylabel("%")
    if not (estimate := rounds["estimate"]) or not agreements:
        return
    planned, expected = bought[-1] + estimate["answers"], agreements[-1] + estimate["points"]
    beside = [[estimate["points"] - estimate["low"]], [estimate["high"] - estimate["points"]]]
    axes.plot([bought[-1], planned], [agreements[-1], expected], linestyle="--", color="#777777")
    axes.errorbar(
        [planned], [expected], yerr=beside, fmt="s", mfc="none", color="#777777", label="not bought: estimate"
    )
    axes.legend(frameon=False, loc="lower right")
