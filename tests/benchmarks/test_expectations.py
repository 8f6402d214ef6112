"""The client's table of measured curves is made of the committed results, and of comparable runs alone."""

import json
import math
from pathlib import Path

import pytest

from benchmarks.reproduction.expectations import measured_curves
from benchmarks.reproduction.outcomes import read_sections
from benchmarks.reproduction.rows import append_row
from distill_client.expectation import TABLE
from tests.benchmarks.made_up import folders, found, row

PLAN = """
[[group]]
about = "all"
section = "main"
dataset = "fashion-mnist"
methods = ["standard-kd", "standard-kd-tuned", "fs-bbt", "ours"]
[[group]]
about = "few"
section = "curve"
dataset = "fashion-mnist"
methods = ["ours"]
answers = [5_000]
[[group]]
about = "a case"
section = "case"
dataset = "fashion-mnist"
methods = ["ours"]
pool = "random"
"""
TEACHER = """
classes = ["a", "b"]
[weights]
sha256 = "0f"
[input]
height = 28
width = 28
channels = 1
[measured]
test_accuracy = 0.9
"""


def test_the_table_is_that_of_the_committed_results() -> None:
    assert TABLE.read_text(encoding="utf-8") == measured_curves(read_sections()), "run benchmarks/results_page.py"


def test_a_curve_is_of_a_method_that_was_run_more_than_once_and_of_the_pool_alone_only_if_learnt_like_ours(
    tmp_path: Path,
) -> None:
    places, results = folders(tmp_path), tmp_path / "results"
    (tmp_path / "plan.toml").write_text(PLAN)
    (places["bundles"] / "fashion-mnist-lenet5" / "teacher.toml").write_text(TEACHER)
    for seed in (1, 2):
        append_row(row(found(tmp_path, method="standard-kd", seed=seed), accuracy=0.83), results)
        append_row(row(found(tmp_path, seed=seed, pool="random"), accuracy=0.5), results)
        append_row(row(found(tmp_path, method="standard-kd-tuned", seed=seed), accuracy=0.84), results)
    append_row(row(found(tmp_path, method="fs-bbt"), accuracy=0.84), results)
    for seed, accuracy in ((1, 0.87), (2, 0.872), (3, 0.874)):
        append_row(row(found(tmp_path, seed=seed), accuracy=accuracy), results)
    for seed, accuracy in ((1, 0.85), (2, 0.854)):
        append_row(row(found(tmp_path, seed=seed, answers=5_000), accuracy=accuracy), results)
    sections = read_sections(tmp_path / "plan.toml", **places, results=results)
    curve, alone = json.loads(measured_curves(sections))["curves"]
    points = curve.pop("points")
    pooled = math.sqrt((2 * 0.002**2 + 2 * 0.002**2) / 3)
    assert curve.pop("deviation") == pytest.approx(pooled, abs=1e-5)
    assert curve == {
        "dataset": "fashion-mnist",
        "image": "28x28x1",
        "classes": 2,
        "method": "mixed-views",
        "student": "lenet5-half",
        "optimiser": "adam",
        "disclosure": "probabilities",
        "teacher_accuracy": 0.9,
    }
    samples = 256 * 5_860
    assert (alone["method"], [point["answers"] for point in alone["points"]]) == ("pool-alone", [2_000])
    assert points == [
        {"answers": 5_000, "pool_images": 2_000, "samples": samples, "accuracy": 0.852, "seeds": 2},
        {"answers": 50_000, "pool_images": 2_000, "samples": samples, "accuracy": 0.872, "seeds": 3},
    ]
