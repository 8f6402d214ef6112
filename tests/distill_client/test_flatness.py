"""When a run in rounds stops, and what is said of the rest: on numbers that can be checked by hand."""

import math
from pathlib import Path

import numpy as np
import pytest

from distill_client.config import BudgetConfig
from distill_client.flatness import (
    Measurement,
    describe_rounds,
    estimate_rest,
    flat_since,
    keep_measurements,
    read_measurements,
)


def measured(gains: list[int], held_out: int = 100) -> list[Measurement]:
    """One measurement a round, each of which gains so many of the held-out answers; a round buys 10."""
    agreeing, all_of_them = [20], []
    for number, gain in enumerate(gains, start=1):
        agreeing.append(agreeing[-1] + gain)
        all_of_them.append(
            Measurement(
                bought=tuple(range(10, 10 * (number + 2), 10)),
                held_out=held_out,
                agreeing=tuple(agreeing),
                gained=max(gain, 0) + 2,
                lost=max(-gain, 0) + 2,
            )
        )
    return all_of_them


def on_a_curve(bought: list[int], held_out: int, wrong: list[int]) -> Measurement:
    agreeing = tuple(held_out - count for count in wrong)
    return Measurement(bought=tuple(bought), held_out=held_out, agreeing=agreeing, gained=5, lost=5)


@pytest.mark.parametrize(
    ("gains", "least_gain", "patience", "stopped_after"),
    [
        ([9, 5, 1, 9], 3.0, 1, 3),
        ([9, 5, 3, 9], 3.0, 1, None),  # as much as is wanted is enough
        ([1, 9, 1, 1, 9], 3.0, 2, 4),  # not the first, which a better one follows
        ([1, 1, 1], 3.0, 4, None),
        ([-5, 9], 0.0, 1, 1),
        ([], 3.0, 1, None),
    ],
)
def test_a_run_stops_at_the_first_rounds_in_a_row_that_add_too_little(
    gains: list[int], least_gain: float, patience: int, stopped_after: int | None
) -> None:
    config = BudgetConfig(policy="until-flat", least_gain=least_gain, patience=patience)
    assert flat_since(config, measured(gains)) == stopped_after
    assert flat_since(BudgetConfig(least_gain=least_gain, patience=patience), measured(gains)) is None


def test_where_nothing_is_held_out_nothing_is_flat() -> None:
    blind = Measurement(bought=(10, 20), held_out=0, agreeing=(0, 0), gained=0, lost=0)
    assert math.isnan(blind.gain)
    assert flat_since(BudgetConfig(policy="until-flat", least_gain=100), [blind]) is None
    assert estimate_rest(blind, 100) is None
    assert blind.sentence == "round 1: no real image is held out that could tell what it added"


def test_a_gain_is_a_paired_difference_with_its_standard_error() -> None:
    one = Measurement(bought=(10, 20), held_out=200, agreeing=(150, 156), gained=10, lost=4)
    assert one.gain == 3.0
    assert one.gain_error == pytest.approx(100 * math.sqrt(14 - 36 / 200) / 200)
    differences = np.repeat([1.0, -1.0, 0.0], [10, 4, 186])
    assert one.gain_error == pytest.approx(100 * differences.std() / math.sqrt(200))


def test_a_power_law_is_found_and_followed() -> None:
    """e(n) = 2 / sqrt(n): 10 %, 5 % and 2.5 % of 10,000; four times the answers halve the last once more."""
    estimate = estimate_rest(on_a_curve([400, 1_600, 6_400], 10_000, [1_000, 500, 250]), 25_600)
    assert estimate is not None
    assert (estimate.points, estimate.answers, estimate.students) == (1.25, 19_200, 3)
    assert 0 < estimate.low < 1.25 < estimate.high < 2.5


def test_an_estimate_is_never_negative_and_never_more_than_is_missing() -> None:
    worse = estimate_rest(on_a_curve([100, 200, 300], 1_000, [100, 110, 120]), 10_000)
    assert worse is not None
    assert (worse.points, worse.low) == (0, 0)
    assert worse.high > 0  # three students prove little
    perfect = estimate_rest(on_a_curve([100, 200], 50, [3, 0]), 10_000)
    assert perfect is not None
    assert 0 <= perfect.low <= perfect.points <= perfect.high <= 1
    assert estimate_rest(on_a_curve([100, 200], 50, [3, 2]), 200) is None


def test_more_students_and_more_held_out_answers_say_more() -> None:
    def width(bought: list[int], held_out: int) -> float:
        wrong = [round(held_out * 2 / math.sqrt(count)) for count in bought]
        estimate = estimate_rest(on_a_curve(bought, held_out, wrong), 40_000)
        assert estimate is not None
        return estimate.high - estimate.low

    few, more, many = [100, 6_400], [100, 1_600, 6_400], [100, 400, 800, 1_600, 3_200, 6_400]
    assert width(few, 2_000) > width(more, 2_000) > width(many, 2_000)
    assert width(many, 100_000) < width(many, 2_000)


def test_nine_intervals_of_ten_hold_the_truth() -> None:
    """Students drawn by chance around a power law: e(n) = 0.4 n^-0.15, from 2,000 to 10,000 answers of 50,000."""
    rng, bought, held_out = np.random.default_rng(5), [2_000, 4_000, 6_000, 8_000, 10_000], 1_000
    truth_r = 0.4 * np.array([*bought, 50_000], dtype=np.float64) ** -0.15
    added, inside = 100 * (truth_r[-2] - truth_r[-1]), 0
    for _ in range(300):
        wrong = rng.binomial(held_out, truth_r[:-1]).tolist()
        estimate = estimate_rest(on_a_curve(bought, held_out, wrong), 50_000)
        assert estimate is not None
        inside += estimate.low <= added <= estimate.high
    assert inside >= 0.9 * 300


def test_what_is_said_names_the_numbers_and_that_the_rest_is_an_estimate() -> None:
    config = BudgetConfig(policy="until-flat", least_gain=3, rounds=9)
    told = describe_rounds(config, measured([9, 1]), planned=100)
    assert told["stopped_after"] == 2
    assert told["estimate"]["answers"] == 70
    assert [one["gain"] for one in told["measured"]] == [9.0, 1.0]
    assert [one["agreement"] for one in told["measured"][-1]["students"]] == [20.0, 29.0, 30.0]
    assert told["sentence"].startswith(
        "stopped after round 2 of 9: round 2, at 30 answers, added 1.00 points of agreement with the teacher (sta"
    )
    assert "on 100 real images held out); the sign to stop is less than 3; " in told["sentence"]
    assert "the other 70 answers would probably have added about" in told["sentence"]
    assert "an estimate, by a power law through 3 students" in told["sentence"]
    whole = describe_rounds(config, measured([9, 9]), planned=100)
    assert (whole["stopped_after"], whole["estimate"]) == (None, None)
    assert whole["sentence"].startswith("all 9 rounds were bought")
    patient = BudgetConfig(policy="until-flat", least_gain=3, rounds=9, patience=2)
    assert (
        "sign to stop is less than 3, 2 rounds in a row;"
        in describe_rounds(patient, measured([9, 1, 1]), 99)["sentence"]
    )


def test_measurements_are_kept_and_a_damaged_file_is_none(tmp_path: Path) -> None:
    path, taken = tmp_path / "rounds" / "measured.json", measured([9, 1])
    assert read_measurements(path) == ()
    keep_measurements(path, taken)
    assert read_measurements(path) == tuple(taken)
    keep_measurements(path, taken[1:])  # as no run writes them: the first is missing
    assert read_measurements(path) == ()
    path.write_text("[{")
    assert read_measurements(path) == ()
