"""Temperature, noise, top-k and rounding: each for any distribution, and in their order."""

import hashlib
import hmac
import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_numpy
from numpy.typing import NDArray

from shared.wire.disclosure import NOISE_STEPS, Disclosure
from shared.wire.images import encode_npy
from teacher_server.disclosure import disclose, draw_noise

SECRET = bytes(range(32))
steps = st.sampled_from(NOISE_STEPS)
temperatures = st.sampled_from([0.1, 0.5, 0.99, 1.0, 1.01, 2.0, 7.5, 100.0])
decimals = st.integers(1, 6)


@st.composite
def distributions(draw: st.DrawFn) -> NDArray[np.float32]:
    """Rows as a classifier gives them: sharp and flat ones, ties, zeros."""
    weights_nk = draw(
        st_numpy.arrays(
            np.float64,
            st_numpy.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=8),
            elements=st.sampled_from([0.0, 1e-9, 1e-3, 0.25, 0.5, 1.0]) | st.floats(0, 1),
        )
    )
    weights_nk[weights_nk.sum(axis=1) < 1e-6] = 1.0
    shares_nk: NDArray[np.float32] = (weights_nk / weights_nk.sum(axis=1, keepdims=True)).astype(np.float32)
    return shares_nk


def digests(count: int) -> list[bytes]:
    return [hashlib.sha256(bytes([number])).digest() for number in range(count)]


def noise_for(probabilities_nk: NDArray[np.float32], noise: float) -> NDArray[np.float64] | None:
    rows, classes = probabilities_nk.shape
    return draw_noise(SECRET, digests(rows), noise=noise, classes=classes) if noise else None


def disclosed_by(probabilities_nk: NDArray[np.float32], policy: Disclosure) -> NDArray[np.float32]:
    disclosed = disclose(probabilities_nk, policy, noise_for(probabilities_nk, policy.noise))
    assert disclosed.dtype == np.float32
    return disclosed  # type: ignore[return-value]  # no label here


def in_units(disclosed_nk: NDArray[np.float32], decimals: int) -> NDArray[np.int64]:
    """Whole units of the last decimal; each value is the float32 next to so many. Hidden ones are 0."""
    units = np.nan_to_num(np.round(disclosed_nk.astype(np.float64) * 10**decimals))
    shown = ~np.isnan(disclosed_nk)
    assert np.array_equal((units / 10**decimals).astype(np.float32)[shown], disclosed_nk[shown])
    whole_nk: NDArray[np.int64] = units.astype(np.int64)
    return whole_nk


# --- what was sold before -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "digest"),
    [
        ("probabilities", "ef14b8adfa00144a044f52fa21264336970d63b55af3fa7736c3589cadb16ae9"),
        ("top-k:3", "6137721c1d15ea0c3e70f9bd482169ddc29c857a32bb7fed9c07e37315472f09"),
        ("label", "149542894833f6e4d6fbd8d9a160d6234de277d1c6364a7dc9d6376d4053017f"),
    ],
)
def test_policies_of_before_give_the_same_bytes(text: str, digest: str) -> None:
    """Digests of what the code of then made of these rows."""
    weights_nk = (np.arange(1, 701).reshape(70, 10) * 7919 % 1009) ** 4
    rows_nk = (weights_nk / weights_nk.sum(axis=1, keepdims=True)).astype(np.float32)
    assert hashlib.sha256(encode_npy(disclose(rows_nk, Disclosure.parse(text)))).hexdigest() == digest


# --- temperature --------------------------------------------------------------------------------------------------


@settings(deadline=None)
@given(st_numpy.arrays(np.float64, (3, 5), elements=st.floats(-8, 8)), temperatures)
def test_a_temperature_is_that_of_the_softmax(logits_nk: NDArray[np.float64], temperature: float) -> None:
    def softmax(values_nk: NDArray[np.float64]) -> NDArray[np.float64]:
        weights_nk = np.exp(values_nk - values_nk.max(axis=1, keepdims=True))
        shares_nk: NDArray[np.float64] = weights_nk / weights_nk.sum(axis=1, keepdims=True)
        return shares_nk

    policy = Disclosure("probabilities", temperature=temperature, decimals=6)
    disclosed_nk = disclosed_by(softmax(logits_nk).astype(np.float32), policy)
    assert np.abs(disclosed_nk - softmax(logits_nk / temperature)).max() <= 3e-6


@settings(deadline=None)
@given(distributions(), temperatures, temperatures, decimals)
def test_a_temperature_keeps_the_order_and_a_higher_one_flattens(
    probabilities_nk: NDArray[np.float32], one: float, other: float, decimals: int
) -> None:
    low, high = sorted((one, other))
    colder = disclosed_by(probabilities_nk, Disclosure("probabilities", temperature=low, decimals=decimals))
    warmer = disclosed_by(probabilities_nk, Disclosure("probabilities", temperature=high, decimals=decimals))
    for row, tempered in zip(probabilities_nk.tolist(), colder.tolist(), strict=True):
        ranked = sorted(range(len(row)), key=lambda label: (-row[label], label))
        assert [tempered[label] for label in ranked] == sorted(tempered, reverse=True)
    assert (in_units(warmer, decimals).max(axis=1) <= in_units(colder, decimals).max(axis=1)).all()
    assert ((probabilities_nk > 0) | (warmer == 0)).all(), "what has no probability gets none"


# --- noise --------------------------------------------------------------------------------------------------------


def noise_by_its_definition(digest: bytes, noise: float, classes: int) -> list[float]:
    """The definition in the module's docstring, word by word."""
    seed = hmac.new(SECRET, b"teacher noise 1" + digest, hashlib.sha256).digest()
    stream = hashlib.shake_256(seed).digest(1_000_000)
    words = [int.from_bytes(stream[place : place + 2], "little") for place in range(0, 24 * 7 * classes, 2)]
    total, below = [0.0] * classes, 0.0
    for step in NOISE_STEPS:
        for label in range(classes):
            twelve, words = words[:12], words[12:]
            total[label] += math.sqrt(step**2 - below**2) * ((sum(twelve) - 393_210) / 65_536)
        if step == noise:
            return total
        below = step
    raise AssertionError(noise)


@pytest.mark.parametrize("noise", NOISE_STEPS)
@pytest.mark.parametrize("classes", [1, 10, 137])
def test_noise_is_what_its_definition_says_to_the_last_bit(noise: float, classes: int) -> None:
    drawn = draw_noise(SECRET, digests(3), noise=noise, classes=classes)
    assert drawn.tolist() == [noise_by_its_definition(digest, noise, classes) for digest in digests(3)]


def test_noise_never_changes() -> None:
    drawn = draw_noise(SECRET, digests(2), noise=0.1, classes=3)
    assert [[value.hex() for value in row] for row in drawn.tolist()] == [
        ["-0x1.7e009ae52783ep-3", "0x1.4be26601e60f8p-3", "0x1.3ed24e72cb051p-3"],
        ["0x1.be86725eb128cp-5", "-0x1.090df5d9fe4f8p-4", "0x1.4e2d32f29eac4p-7"],
    ]


@settings(deadline=None)
@given(st.permutations(range(9)), st.integers(1, 9), steps)
def test_noise_does_not_depend_on_the_batch(order: list[int], size: int, noise: float) -> None:
    alone = draw_noise(SECRET, digests(9), noise=noise, classes=4)
    batch = draw_noise(SECRET, [digests(9)[row] for row in order[:size]], noise=noise, classes=4)
    assert np.array_equal(batch, alone[order[:size]])


@pytest.mark.parametrize("noise", NOISE_STEPS)
def test_noise_has_the_spread_that_the_policy_says(noise: float) -> None:
    images = [hashlib.sha256(number.to_bytes(2, "big")).digest() for number in range(2000)]
    drawn = draw_noise(SECRET, images, noise=noise, classes=10)
    assert abs(drawn.mean()) < 0.03 * noise
    assert abs(drawn.std() / noise - 1) < 0.02
    between = np.corrcoef(drawn.T)
    assert np.abs(between - np.eye(10)).max() < 0.1, "classes are independent"
    sorted_n = np.sort(drawn.ravel()) / noise
    normal_n = np.array([0.5 * (1 + math.erf(value / math.sqrt(2))) for value in sorted_n.tolist()])
    assert np.abs(normal_n - (np.arange(20_000) + 0.5) / 20_000).max() < 0.015, "close to normal"


def test_secrets_and_images_draw_independently() -> None:
    images = [hashlib.sha256(number.to_bytes(2, "big")).digest() for number in range(2000)]
    one = draw_noise(SECRET, images, noise=1.0, classes=10).ravel()
    for other in (draw_noise(bytes(32), images, noise=1.0, classes=10).ravel(), np.roll(one, 10)):
        assert abs(np.corrcoef(one, other)[0, 1]) < 0.03


@pytest.mark.parametrize(("less", "more"), [(0.05, 0.1), (0.1, 0.5), (0.5, 5.0)])
def test_two_steps_together_tell_no_more_than_the_lower_one(less: float, more: float) -> None:
    """The noisier answer is the less noisy one with independent noise on it, so no mixture of the two is better."""
    images = [hashlib.sha256(number.to_bytes(2, "big")).digest() for number in range(2000)]
    low = draw_noise(SECRET, images, noise=less, classes=10).ravel()
    high = draw_noise(SECRET, images, noise=more, classes=10).ravel()
    assert abs(np.corrcoef(low, high - low)[0, 1]) < 0.03
    mixtures = [float((weight * low + (1 - weight) * high).std()) for weight in np.linspace(-2, 3, 101)]
    assert min(mixtures) > 0.99 * less


@settings(deadline=None)
@given(distributions(), steps, st.sampled_from([0.5, 2.0, 4.0]))
def test_two_temperatures_together_take_no_noise_off(
    probabilities_nk: NDArray[np.float32], noise: float, temperature: float
) -> None:
    """What a key of each sees is the same noisy distribution: undoing the temperature gives the other's, exactly."""
    probabilities_nk = probabilities_nk[:, :4] + np.float32(0.2)  # nothing so small that rounding hides it
    probabilities_nk /= probabilities_nk.sum(axis=1, keepdims=True)
    noise = min(noise, 0.5)
    plain = disclosed_by(probabilities_nk, Disclosure("probabilities", noise=noise, decimals=6)).astype(np.float64)
    warm = disclosed_by(
        probabilities_nk, Disclosure("probabilities", temperature=temperature, noise=noise, decimals=6)
    ).astype(np.float64)
    undone = warm**temperature
    undone /= undone.sum(axis=1, keepdims=True)
    assert np.abs(undone - plain).max() < 2e-5
    # The mixture of logits in which noise that was the same at both temperatures would vanish has it whole.
    assume(probabilities_nk.shape[1] > 1)
    drawn = noise_for(probabilities_nk, noise)
    assert drawn is not None
    truth = np.log(probabilities_nk.astype(np.float64))
    mixture = (np.log(plain) - np.log(warm)) / (1 - 1 / temperature)
    left = (mixture - truth) - (mixture - truth).mean(axis=1, keepdims=True)
    assert np.abs(left - (drawn - drawn.mean(axis=1, keepdims=True))).max() < 1e-3


def test_no_answer_leaves_without_its_noise() -> None:
    rows_nk = np.full((2, 4), 0.25, np.float32)
    noisy, plain = Disclosure.parse("label;noise=1"), Disclosure.parse("label")
    with pytest.raises(ValueError, match="noise is 1, but noise_nk is missing"):
        disclose(rows_nk, noisy)
    with pytest.raises(ValueError, match="noise is 0, but noise_nk is given"):
        disclose(rows_nk, plain, noise_for(rows_nk, 1.0))


# --- rounding -----------------------------------------------------------------------------------------------------


@settings(deadline=None)
@given(distributions(), decimals)
def test_rounded_rows_sum_to_exactly_one(probabilities_nk: NDArray[np.float32], decimals: int) -> None:
    disclosed_nk = disclosed_by(probabilities_nk, Disclosure("probabilities", decimals=decimals))
    units = in_units(disclosed_nk, decimals)
    assert (units.sum(axis=1) == 10**decimals).all()
    for row, rounded in zip(probabilities_nk.tolist(), units.tolist(), strict=True):
        whole = sum(map(Fraction, row))
        exact = [Fraction(value) / whole * 10**decimals for value in row]
        assert all(abs(given - wanted) < 1 + Fraction(1, 10**6) for given, wanted in zip(rounded, exact, strict=True))
    again = disclosed_by(disclosed_nk, Disclosure("probabilities", decimals=decimals))
    assert np.array_equal(again, disclosed_nk), "rounding what is rounded changes nothing"


@settings(deadline=None)
@given(distributions(), decimals, st.integers(1, 9), temperatures, st.just(0.0) | steps)
def test_top_k_is_rounded_with_all_that_it_hides_as_one_number(
    probabilities_nk: NDArray[np.float32], decimals: int, k: int, temperature: float, noise: float
) -> None:
    classes = probabilities_nk.shape[1]
    cut = Disclosure("top-k", k, temperature=temperature, noise=noise, decimals=decimals)
    whole = Disclosure("probabilities", temperature=temperature, noise=noise, decimals=decimals)
    disclosed_nk, full_nk = disclosed_by(probabilities_nk, cut), disclosed_by(probabilities_nk, whole)
    units = in_units(disclosed_nk, decimals)
    shown = ~np.isnan(disclosed_nk)
    assert (shown.sum(axis=1) == min(k, classes)).all()
    assert (units.sum(axis=1) <= 10**decimals).all()
    assert np.abs(units - in_units(full_nk, decimals))[shown].max() <= 1
    if k >= classes:
        assert np.array_equal(disclosed_nk, full_nk)


@pytest.mark.parametrize(
    ("row", "text", "wanted"),
    [
        ([0.25] * 4, "probabilities;decimals=1", [0.3, 0.3, 0.2, 0.2]),  # ties: the lower index first
        ([0.125] * 8, "probabilities;decimals=1", [0.2, 0.2, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1]),
        ([0.05, 0.05, 0.9], "probabilities;decimals=1", [0.1, 0.0, 0.9]),
        ([0.04, 0.06, 0.9], "probabilities;decimals=1", [0.0, 0.1, 0.9]),
        ([0.25] * 4, "top-k:2;decimals=1", [0.3, 0.2, None, None]),  # 0.25 0.25 0.5
        ([0.45, 0.45, 0.05, 0.05], "top-k:2;decimals=1", [0.5, 0.4, None, None]),
        ([0.0, 0.0, 1.0], "top-k:1;decimals=3", [None, None, 1.0]),
        # Temperature comes before top-k and rounding: 0.8 and 0.2 are 2/3 and 1/3 at temperature 2.
        ([0.8, 0.2], "probabilities;temperature=2;decimals=1", [0.7, 0.3]),
        ([0.64, 0.16, 0.16, 0.04], "top-k:1;temperature=2;decimals=2", [0.44, None, None, None]),
    ],
)
def test_rows_by_hand(row: list[float], text: str, wanted: list[float | None]) -> None:
    disclosed_nk = disclosed_by(np.array([row], np.float32), Disclosure.parse(text))
    assert [None if math.isnan(value) else round(value, 6) for value in disclosed_nk[0].tolist()] == wanted


# --- all of them, in their order ----------------------------------------------------------------------------------


def disclosed_by_hand(
    row: list[float], noise: list[float], temperature: float, k: int, decimals: int
) -> list[int | None]:
    """One step after the other, in plain Python and whole units."""
    tempered = [value ** (1 / temperature) for value in row]
    tempered = [value / sum(tempered) for value in tempered]
    noisy = [value * math.exp(z / temperature) for value, z in zip(tempered, noise, strict=True)]
    noisy = [value / sum(noisy) for value in noisy]
    ranked = sorted(range(len(row)), key=lambda label: (-noisy[label], label))
    shown = sorted(ranked[:k])
    parts = [Fraction(noisy[label]) / sum(map(Fraction, noisy)) for label in shown]
    parts.append(1 - sum(parts, Fraction(0)))
    scaled = [part * 10**decimals for part in parts]
    units = [math.floor(value) for value in scaled]
    by_remainder = sorted(range(len(units)), key=lambda place: (units[place] - scaled[place], place))
    for place in by_remainder[: 10**decimals - sum(units)]:
        units[place] += 1
    rounded: list[int | None] = [None] * len(row)
    for label, value in zip(shown, units, strict=False):
        rounded[label] = value
    return rounded


@pytest.mark.parametrize("noise", [0.0, 0.1, 1.0])
@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
@pytest.mark.parametrize(("k", "decimals"), [(1, 1), (3, 2), (5, 4), (8, 3)])
def test_temperature_then_noise_then_top_k_then_rounding(
    noise: float, temperature: float, k: int, decimals: int
) -> None:
    rows_nk = np.random.default_rng(5).dirichlet([0.3] * 8, 50).astype(np.float32)
    policy = Disclosure("top-k", k, temperature=temperature, noise=noise, decimals=decimals)
    disclosed_nk = disclosed_by(rows_nk, policy)
    drawn = noise_for(rows_nk, noise)
    noise_nk = np.zeros((50, 8)) if drawn is None else drawn
    units, shown = in_units(disclosed_nk, decimals), ~np.isnan(disclosed_nk)
    for row in range(50):
        wanted = disclosed_by_hand(rows_nk[row].tolist(), noise_nk[row].tolist(), temperature, k, decimals)
        given = [int(units[row, label]) if shown[row, label] else None for label in range(8)]
        assert given == wanted


@settings(deadline=None)
@given(distributions(), temperatures, st.just(0.0) | steps)
def test_a_label_is_the_largest_after_noise_whatever_the_temperature(
    probabilities_nk: NDArray[np.float32], temperature: float, noise: float
) -> None:
    drawn = noise_for(probabilities_nk, noise)
    label = disclose(probabilities_nk, Disclosure("label", noise=noise), drawn)
    top_1 = disclosed_by(probabilities_nk, Disclosure("top-k", 1, temperature=temperature, noise=noise, decimals=6))
    with np.errstate(divide="ignore"):
        noisy_nk = np.log(probabilities_nk.astype(np.float64)) + (0.0 if drawn is None else drawn)
    ranked = np.sort(noisy_nk, axis=1)
    is_clear = np.ones(len(ranked), bool) if ranked.shape[1] == 1 else ranked[:, -1] - ranked[:, -2] > 1e-9
    assert (label[is_clear] == noisy_nk.argmax(axis=1)[is_clear]).all()
    assert (np.nanargmax(top_1, axis=1)[is_clear] == label[is_clear]).all()
    whole = disclosed_by(
        probabilities_nk, Disclosure("probabilities", temperature=temperature, noise=noise, decimals=2)
    )
    of_label = whole[np.arange(len(whole)), label.astype(np.int64)]
    assert (of_label[is_clear] == whole.max(axis=1)[is_clear]).all()
