import contextlib
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from distill_client.plan import PlanCost
from distill_client.report.figure import draw_report
from distill_client.report.progress import RunProgress
from distill_client.report.table import plan_table, results_table
from distill_client.teachers.protocol import Answer

SUMMARY: dict[str, Any] = {
    "name": "tiny",
    "seed": 1,
    "test_images": 450,
    "teacher_accuracy": 0.9063,
    "student_accuracy": 0.8456,
    "agreement": 0.8712,
    "agreement_on": "bought answers held out of training",
    "agreement_images": 200,
    "baselines": {"student_alone": 0.7999, "standard_kd": 0.8123},
    "images": {
        "planned": 10_000,
        "bought": 9_999,
        "charged_by_server": 9_998,
        "in_audit_log": 9_997,
        "by_phase": {"pool": 2_000, "mixup": 7_000, "cvae": 1_000},
    },
    "audit": {"equal": True, "faults": []},
    "seconds": {"buy_pool": 1.25, "train_student": 30.0},
}
BARE = SUMMARY | {
    "teacher_accuracy": None,
    "agreement": None,
    "agreement_on": "not measured",
    "agreement_images": 0,
    "baselines": {"student_alone": None, "standard_kd": None},
    "audit": {"equal": False, "faults": ["x"]},
}


def shown(renderable: object) -> str:
    console = Console(file=io.StringIO(), width=100)
    console.print(renderable)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_the_table_holds_every_number() -> None:
    text = shown(results_table(SUMMARY))
    for number in ("90.63%", "84.56%", "79.99%", "81.23%", "87.12%", "10,000", "9,999", "9,998", "9,997", "31.2"):
        assert number in text
    assert "200 images: bought answers held out of training" in text
    assert "all rows agree" in text


def test_what_was_not_run_or_measured_is_said_so() -> None:
    text = shown(results_table(BARE))
    assert text.count("not run") == 3
    assert "not measured" in text
    assert "ROWS DISAGREE" in text


def test_the_plans_table_adds_up() -> None:
    text = shown(plan_table(PlanCost(2_000, mixup=7_000, cvae=900), budget_images=10_000, requests=40))
    for number in ("2,000", "7,000", "900", "9,900", "10,000", "100", "40"):
        assert number in text


def test_tables_say_that_a_second_pool_is_touched() -> None:
    cost = PlanCost(2_000, mixup=7_000, second_pool=1_930, cvae=900)
    images = {**SUMMARY["images"], "by_phase": cost.phases(), "real": cost.real}
    for text in (
        shown(plan_table(cost, budget_images=12_000, requests=40)),
        shown(results_table({**SUMMARY, "images": images})),
    ):
        (row,) = [line for line in text.splitlines() if "real images touched, in two pools" in line]
        assert "3,930" in row


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("summary", [SUMMARY, BARE], ids=["full", "bare"])
def test_the_picture_is_drawn_whatever_there_is_to_show(
    tmp_path: Path, channels: int, summary: dict[str, Any]
) -> None:
    images = np.random.default_rng(0).integers(0, 256, (5, 28, 28, channels), np.uint8)
    samples = {"pool": (images, ["a", "$x_$", "<b>", "[bold]", "%s"]), "mixup": (images[:1], ["a"])}
    metrics = [
        {"contender": contender, "step": step, "loss": 1 / step, "learning_rate": 0.1}
        for contender in ("student", "standard_kd", "student_alone")
        for step in (1, 2, 3)
    ]
    path = tmp_path / "report.png"
    path.write_bytes(b"an older one")
    draw_report(path, summary, metrics, samples)
    with Image.open(path) as picture:
        picture.load()
        assert picture.format == "PNG"
        assert picture.width > 800
    assert [file.name for file in tmp_path.iterdir()] == ["report.png"]


def answer(charged: int, remaining: int) -> Answer:
    return Answer(np.zeros(charged, np.int64), "1", "label", charged, 0, remaining, 1, "h")


@pytest.mark.parametrize("is_terminal", [True, False])
def test_progress_speaks_of_what_is_bought_and_left(is_terminal: bool) -> None:
    console = Console(file=io.StringIO(), width=160, force_terminal=is_terminal, legacy_windows=False)
    with RunProgress(console) as progress:
        heard = progress.buying("pool", 30, 10)
        heard(answer(8, 70))
        heard(answer(12, 58))
        progress.learning("the divergence from whole distributions")
        trained = progress.training("student")
        trained(1, 2, 0.5)
        trained(2, 2, float("nan"))
    assert isinstance(console.file, io.StringIO)
    text = console.file.getvalue()
    assert "58 images left in budget" in text
    assert "learning by the divergence from whole distributions" in text
    if is_terminal:
        assert "30/30" in text
        assert "ETA" in text
    else:
        assert text.splitlines() == [
            "buying pool: 10 of 30 images bought already",
            "buying pool: done, 58 images left in budget",
            "learning by the divergence from whole distributions",
            "training student",
        ]


def test_progress_ends_also_when_a_run_fails() -> None:
    console = Console(file=io.StringIO(), width=160, force_terminal=True, legacy_windows=False)
    with contextlib.suppress(KeyError), RunProgress(console) as progress:
        progress.buying("pool", 30, 0)
        raise KeyError
    assert isinstance(console.file, io.StringIO)
    assert "\x1b[?25h" in console.file.getvalue()  # the cursor is shown again
