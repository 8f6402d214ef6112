"""What a plan may expect: between measured points, and nothing where nothing comparable was measured."""

import math
from typing import Any

import pytest

from distill_client.expectation import Curve, Expectation, Point, expect
from tests.distill_client.fakes import tiny_config

POINTS = (
    Point(answers=1_000, pool_images=500, samples=600_000, accuracy=0.80, seeds=3),
    Point(answers=4_000, pool_images=2_000, samples=600_000, accuracy=0.84, seeds=3),
    Point(answers=16_000, pool_images=2_000, samples=600_000, accuracy=0.86, seeds=1),
)
CURVE = Curve(
    dataset="digits",
    image="28x28x1",
    classes=10,
    method="mixed-views",
    student="lenet5-half",
    disclosure="probabilities",
    teacher_accuracy=0.9,
    deviation=0.003,
    points=POINTS,
)
EASIER = CURVE.model_copy(update={"dataset": "mnist", "teacher_accuracy": 0.99})


def expected(
    answers: int = 4_000,
    *,
    pool: int = 2_000,
    steps: int = 2_344,
    curves: tuple[Curve, ...] = (CURVE,),
    disclosure: str = "probabilities",
    classes: int = 10,
    **changes: Any,
) -> Expectation | None:
    config = tiny_config(
        budget_images=answers,
        pool={"images": pool, **changes.pop("pool_keys", {})},
        synthesis={"images": answers - pool, "method": "mixed-views"} | changes.pop("synthesis", {}),
        training={"steps": steps, "batch_size": 256},
        **changes,
    )
    return expect(
        config, answers=answers, image_hwc=(28, 28, 1), classes=classes, disclosure=disclosure, curves=curves
    )


def test_a_measured_point_with_what_seeds_may_do() -> None:
    found = expected(4_000)
    assert found is not None
    spread = 2 * 0.003 * math.sqrt(1 + 1 / 3)
    assert found.low == pytest.approx(0.84 - spread)
    assert found.high == pytest.approx(0.84 + spread)
    assert found.describe() == "83.3% to 84.7%"
    assert found.measured_on == ("lenet5-half by mixed-views on digits, teacher 90.0%, 1,000 to 16,000 answers")
    assert found.as_json()["kind"] == "expectation"


def test_between_points_it_goes_by_the_logarithm_and_by_the_fewer_seeds() -> None:
    found = expected(8_000)
    assert found is not None
    assert (found.low + found.high) / 2 == pytest.approx(0.85)
    assert found.high - found.low == pytest.approx(4 * 0.003 * math.sqrt(2))


@pytest.mark.parametrize(
    "changes",
    [
        {"answers": 999, "pool": 500},
        {"answers": 16_001},
        {"pool": 999},
        {"steps": 1_100},
        {"steps": 4_800},
        {"amplification": {"ensemble": 3}},
        {"disclosure": "label"},
        {"student": {"network": "lenet5"}},
        {"synthesis": {"method": "fs-bbt"}},
        {"synthesis": {"images": 0}},
        {"pool_keys": {"labels": "ignore", "balanced": False}, "baselines": {"student_alone": False}},
        {"curves": ()},
    ],
)
def test_nothing_is_expected_where_nothing_comparable_was_measured(changes: dict[str, Any]) -> None:
    assert expected(**changes) is None


def test_up_to_twice_the_pool_and_the_training_are_comparable() -> None:
    assert expected(4_000, pool=1_000) == expected(4_000, pool=4_000 - 1) == expected(4_000)
    assert expected(4_000, steps=1_200) == expected(4_000)
    assert expected(4_000, steps=1_200, amplification={"ensemble": 2}) == expected(4_000)


def test_other_data_of_the_same_shape_say_what_part_of_the_teachers_accuracy_is_reached() -> None:
    others = (CURVE.model_copy(update={"dataset": "fashion-mnist"}), EASIER)
    found = expected(4_000, curves=others)
    assert found is not None
    spread = 2 * 0.003 * math.sqrt(1 + 1 / 3)
    assert found.low == pytest.approx((0.84 - spread) / 0.99)
    assert found.high == pytest.approx((0.84 + spread) / 0.9)
    assert found.describe() == "84.1% to 94.1% of the teacher's"
    assert "on fashion-mnist, teacher 90.0%, 1,000 to 16,000 answers; on mnist" in found.measured_on
    assert expected(4_000, curves=others, classes=11) is None
    assert expected(4_000, curves=others, classes=0) is None


def test_data_that_were_measured_themselves_are_not_compared_with_others() -> None:
    assert expected(20_000, curves=(CURVE, EASIER)) is None
    assert expected(4_000, steps=9_999, curves=(CURVE, EASIER)) is None
