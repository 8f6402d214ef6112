"""What a plan may expect: between measured points, and nothing where nothing comparable was measured."""

import math
from typing import Any

import numpy as np
import pytest

from distill_client.expectation import (
    POOL_ALONE,
    Curve,
    Expectation,
    KnownTeacher,
    Point,
    expect,
    expect_of_pool_alone,
)
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
# One run more, of 3 seeds at the point, where the deviation is pooled over 4 degrees of freedom.
SPREAD = 2.776 * 0.003 * math.sqrt(1 + 1 / 3)
EASIER = CURVE.model_copy(update={"dataset": "mnist", "teacher_accuracy": 0.99})


def expected(
    answers: int = 4_000,
    *,
    pool: int = 2_000,
    steps: int = 2_344,
    curves: tuple[Curve, ...] = (CURVE,),
    disclosure: str = "probabilities",
    classes: int = 10,
    accuracy: float | None = None,
    **changes: Any,
) -> Expectation | None:
    config = tiny_config(
        budget_images=answers,
        pool={"images": pool, **changes.pop("pool_keys", {})},
        synthesis={"images": answers - pool, "method": "mixed-views"} | changes.pop("synthesis", {}),
        training={"steps": steps, "batch_size": 256},
        **changes,
    )
    teacher = KnownTeacher((28, 28, 1), classes, disclosure, accuracy)
    return expect(config, teacher, answers=answers, curves=curves)


FIRST_POINTS = tiny_config(
    budget_images=1_000,
    pool={"images": 500},
    synthesis={"images": 500, "method": "mixed-views"},
    training={"steps": 2_344, "batch_size": 256},
)


def test_a_measured_point_with_what_seeds_may_do() -> None:
    found = expected(4_000)
    assert found is not None
    assert found.band == pytest.approx((0.84 - SPREAD, 0.84 + SPREAD))
    assert found.describe() == "83.0% to 85.0% (mean 84.0%, of 3 seeds)"
    assert found.measured_on == "lenet5-half by mixed-views on digits, teacher 90.0%, 1,000 to 16,000 answers"
    told = found.as_json()
    assert (told["low"], told["mean"], told["high"], told["seeds"]) == (0.8304, 0.84, 0.8496, 3)
    assert (told["differences"], told["kind"]) == ([], "expectation")


@pytest.mark.parametrize(("seeds", "told"), [(1, "85.0% (mean of 1 seed)"), (2, "85.0% (mean of 2 seeds)")])
def test_fewer_than_three_seeds_have_a_mean_and_no_band(seeds: int, told: str) -> None:
    """Between points too, where it goes by the logarithm of the answers and by the fewer seeds."""
    few = CURVE.model_copy(update={"points": (*POINTS[:2], POINTS[2].model_copy(update={"seeds": seeds}))})
    found = expected(8_000, curves=(few,))
    assert found is not None
    assert found.mean == pytest.approx(0.85)
    assert (found.band, found.seeds) == (None, seeds)
    assert found.describe() == told
    assert (found.as_json()["low"], found.as_json()["high"]) == (None, None)


def test_the_band_is_a_prediction_interval_by_students_distribution() -> None:
    """Of 2,000 times three normally distributed runs, or six and five, one more lies within it 19 times in 20."""
    rng = np.random.default_rng(1)
    for sizes in ((3,), (6, 5)):
        hits = 0
        for _ in range(2_000):
            runs = [rng.normal(0.5, 0.01, size) for size in sizes]
            freedom = sum(sizes) - len(sizes)
            pooled = math.sqrt(sum(run.var(ddof=1) * (len(run) - 1) for run in runs) / freedom)
            points = tuple(
                POINTS[at].model_copy(update={"accuracy": float(run.mean()), "seeds": len(run)})
                for at, run in enumerate(runs)
            )
            curve = CURVE.model_copy(update={"points": points, "deviation": pooled})
            found = curve.at(FIRST_POINTS, POINTS[0].answers)
            assert found is not None
            assert found.band is not None
            hits += found.band[0] <= rng.normal(0.5, 0.01) <= found.band[1]
        assert hits / 2_000 == pytest.approx(0.95, abs=0.015)


def test_another_teacher_and_a_pool_that_is_not_balanced_are_told_beside_it() -> None:
    for accuracy, differs in ((0.9, False), (0.91, False), (0.89, False), (0.911, True), (0.75, True)):
        found = expected(accuracy=accuracy)
        assert found is not None
        of_teachers = f"its teacher's test accuracy is {accuracy:.1%}, the measured one's 90.0%"
        assert found.differences == ((of_teachers,) if differs else ())
    found = expected(accuracy=0.75, pool_keys={"balanced": False})
    assert found is not None
    assert found.differences[1:] == ("its pool is not balanced by class, as the measured ones were",)
    assert found.as_json()["differences"] == list(found.differences)
    # Of other data another teacher's accuracy is no difference: the figure is a part of it.
    elsewhere = expected(accuracy=0.75, curves=(EASIER,), pool_keys={"balanced": False})
    assert elsewhere is not None
    assert elsewhere.differences == found.differences[1:]


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
        {"curves": (CURVE.model_copy(update={"optimiser": "muon"}),)},
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


def test_the_pool_alone_has_a_curve_of_its_own() -> None:
    point = Point(answers=500, pool_images=500, samples=600_000, accuracy=0.78, seeds=1)
    curves = (CURVE, CURVE.model_copy(update={"method": POOL_ALONE, "points": (point,)}))
    found = expect_of_pool_alone(FIRST_POINTS, KnownTeacher((28, 28, 1), 10, "probabilities"), curves=curves)
    assert found is not None
    assert found.describe() == "78.0% (mean of 1 seed)"
    assert found.measured_on.endswith("teacher 90.0%, 500 answers")
    assert expected(500, pool=500, curves=curves, synthesis={"images": 0}) == found
    assert expected(1_000, pool=1_000, curves=curves, synthesis={"images": 0}) is None


def test_other_data_of_the_same_shape_say_what_part_of_the_teachers_accuracy_is_reached() -> None:
    others = (CURVE.model_copy(update={"dataset": "fashion-mnist"}), EASIER)
    found = expected(4_000, curves=others)
    assert found is not None
    assert found.band == pytest.approx(((0.84 - SPREAD) / 0.99, (0.84 + SPREAD) / 0.9))
    assert found.describe() == "83.9% to 94.4% of the teacher's (mean 89.1%, of 3 seeds)"
    assert "on fashion-mnist, teacher 90.0%, 1,000 to 16,000 answers; on mnist" in found.measured_on
    assert expected(4_000, curves=others, classes=11) is None
    assert expected(4_000, curves=others, classes=0) is None
    few = EASIER.model_copy(update={"points": tuple(one.model_copy(update={"seeds": 2}) for one in POINTS)})
    found = expected(4_000, curves=(others[0], few))
    assert found is not None
    assert (found.band, found.describe()) == (None, "89.1% of the teacher's (mean of 2 seeds)")


def test_data_that_were_measured_themselves_are_not_compared_with_others() -> None:
    assert expected(20_000, curves=(CURVE, EASIER)) is None
    assert expected(4_000, steps=9_999, curves=(CURVE, EASIER)) is None
