"""What people see of a run in rounds: the plan's table, the results' tables, the picture."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from distill_client.config import BudgetConfig
from distill_client.flatness import Measurement, describe_rounds
from distill_client.plan import PlanCost
from distill_client.report.figure import draw_report
from distill_client.report.rounds import draw_rounds, rounds_table
from distill_client.report.table import plan_table, results_table
from tests.distill_client.test_report import SUMMARY, shown

MEASURED = [
    Measurement(bought=(2_000, 6_800), held_out=680, agreeing=(578, 605), gained=60, lost=33),
    Measurement(bought=(2_000, 6_800, 11_600), held_out=1_160, agreeing=(990, 1_032, 1_034), gained=50, lost=48),
]
ROUNDS = describe_rounds(BudgetConfig(policy="until-flat", rounds=10), MEASURED, planned=50_000)
BLIND = describe_rounds(
    BudgetConfig(policy="until-flat", rounds=2),
    [Measurement(bought=(2_000, 6_800), held_out=0, agreeing=(0, 0), gained=0, lost=0)],
    planned=11_600,
)
STOPPED: dict[str, Any] = SUMMARY | {
    "rounds": ROUNDS,
    "images": SUMMARY["images"]
    | {
        "planned": 50_000,
        "by_phase": {"pool": 2_000, "views-1": 4_800, "views-2": 4_800},
        "not_bought": {"views-3": 38_400},
    },
}


def test_rounds_are_phases_as_equal_as_can_be_and_add_up() -> None:
    cost = PlanCost(40, views=61, rounds=3)
    assert cost.phases() == {"pool": 40, "views-1": 20, "views-2": 20, "views-3": 21}
    assert cost.total == 101
    assert PlanCost(40, active=7, rounds=2).of_rounds() == {"active-1": 3, "active-2": 4}
    assert PlanCost(40, mixup=5, rounds=2).phases() == {"pool": 40, "mixup": 5}
    assert PlanCost(40, views=61).of_rounds() == {}


def test_the_table_tells_the_rounds_the_decision_and_the_estimate() -> None:
    text = shown(rounds_table(ROUNDS))
    for words in ("85.00 to 88.97 %", "+3.97 ± 1.41", "6,800", "11,600", "1,160", "+0.17 ± 0.85"):
        assert words in text, words
    told = " ".join(text.split())
    assert "stopped after round 2 of 10: round 2, at 11,600 answers, added 0.17 points" in told
    assert "the other 38,400 answers would probably have added about" in told
    assert "an estimate" in told
    assert "not measured" in shown(rounds_table(BLIND))


def test_what_was_planned_and_not_bought_is_shown_as_such() -> None:
    text = shown(results_table(STOPPED))
    assert "of these not bought, when it no longer paid" in text
    assert "38,400" in text
    assert "all rows agree" in text
    assert "not bought" not in shown(results_table(SUMMARY))


def test_a_plan_that_may_stop_says_that_it_is_the_most() -> None:
    cost = PlanCost(2_000, views=48_000, rounds=10)
    text = shown(plan_table(cost, budget_images=50_000, requests=198, is_the_most=True))
    assert "at most; less where a round adds too little" in text
    assert text.count("4,800") == 10
    assert "at most" not in shown(plan_table(cost, budget_images=50_000, requests=198))


def test_the_curve_is_of_the_last_measurement_and_the_estimate_hangs_on_its_end() -> None:
    axes = _drawn(ROUNDS)
    curve, dashed = axes.lines[0], axes.lines[1]
    assert np.asarray(curve.get_xdata()).tolist() == [2_000, 6_800, 11_600]
    assert np.asarray(curve.get_ydata()).tolist() == [85.34, 88.97, 89.14]
    assert np.asarray(dashed.get_xdata()).tolist() == [11_600, 50_000]
    assert np.asarray(dashed.get_ydata())[-1] == pytest.approx(89.14 + ROUNDS["estimate"]["points"])
    going_on = describe_rounds(BudgetConfig(policy="until-flat", least_gain=0), MEASURED, planned=50_000)
    assert len(_drawn(going_on).lines) == 1
    assert len(_drawn(BLIND).lines) == 1


def _drawn(rounds: dict[str, Any]) -> Axes:
    axes = Figure().subplots()
    draw_rounds(axes, rounds)
    return axes


@pytest.mark.parametrize("summary", [STOPPED, STOPPED | {"rounds": ROUNDS | {"measured": []}}], ids=["some", "none"])
def test_the_picture_has_room_for_them(tmp_path: Path, summary: dict[str, Any]) -> None:
    images = np.zeros((5, 28, 28, 1), dtype=np.uint8)
    draw_report(tmp_path / "report.png", summary, [], {"pool": (images, list("abcde"))})
    with Image.open(tmp_path / "report.png") as picture:
        picture.load()
        assert picture.width > 800
