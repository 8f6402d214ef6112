"""What leaves the building: tempered, blurred, cut to the largest and rounded, as a key's policy says. Pure.

Noise is a function of an image's bytes and of a secret of the teacher's version, and of nothing else: whoever asks
again, under whatever key, in whatever batch, gets the same noise, and there is nothing to average. Its definition,
which never changes under the same policy text:

    seed = HMAC-SHA256(secret, "teacher noise 1" + the image's digest)
    SHAKE-256(seed) gives little-endian uint16, twelve to a draw: for the first step of the ladder one draw for each
        class, in order; then for the second step; and so on
    draw = (sum of the twelve - 393210) / 65536: mean 0, standard deviation 1, close to normal, never beyond 6
    noise at step s_j = sum over i <= j of sqrt(s_i ** 2 - s_(i-1) ** 2) * draw_i, where s_0 = 0

Integers and square roots only: every machine and every version of every library computes the same bits. A noisier
answer is a less noisy one with more noise on it, so two keys on two steps know no more than the one on the lower.
"""

import hashlib
import hmac
import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from shared.wire.disclosure import NOISE_STEPS, PROBABILITY_DECIMALS, Disclosure

Disclosed = NDArray[np.float32] | NDArray[np.int64]
_DEFINITION = b"teacher noise 1"
_UNIFORMS = 12  # the variance of their sum is 1, where each is below 1
_UNIFORM_END = 65536
_MEAN = _UNIFORMS * (_UNIFORM_END - 1) // 2


def disclose(
    probabilities_nk: NDArray[np.float32], disclosure: Disclosure, noise_nk: NDArray[np.float64] | None = None
) -> Disclosed:
    """Reduce float32 probabilities_nk, whose rows sum to one, to what a key may see.

    ``probabilities``: float32 N x K. ``top-k:K``: the same, with NaN ("not disclosed") for all but the K largest
    of each row, the lower index first among equals. ``label``: int64 N. Probabilities are rounded here, before they
    are stored, digested and sent, because computing twice may differ in later digits.

    ``noise_nk`` is what ``draw_noise`` gives for these images. Raises ValueError where the policy wants it and it is
    not there, so that no answer leaves without.
    """
    if (noise_nk is None) != (not disclosure.noise):
        raise ValueError(
            f"noise is {disclosure.noise:g}, but noise_nk is {'missing' if noise_nk is None else 'given'}"
        )
    shown_nk: NDArray[np.float32] | NDArray[np.float64] = probabilities_nk
    if disclosure.temperature != 1 or noise_nk is not None:
        shown_nk = _tempered(probabilities_nk, disclosure.temperature, noise_nk)
    if disclosure.kind == "label":
        labels_n: NDArray[np.int64] = shown_nk.argmax(axis=1).astype(np.int64)
        return labels_n
    hidden_nk = np.empty((len(shown_nk), 0), np.int64)
    if disclosure.kind == "top-k":
        hidden_nk = np.argsort(-shown_nk, axis=1, kind="stable")[:, disclosure.k :]
    exact_nk = shown_nk.astype(np.float64)
    if disclosure.decimals is None:
        rounded_nk = np.round(exact_nk, PROBABILITY_DECIMALS)
    else:
        rounded_nk = _rounded(exact_nk, hidden_nk, disclosure.decimals)
    np.put_along_axis(rounded_nk, hidden_nk, np.nan, axis=1)
    disclosed_nk: NDArray[np.float32] = rounded_nk.astype(np.float32)
    return disclosed_nk


def draw_noise(secret: bytes, digests: Sequence[bytes], *, noise: float, classes: int) -> NDArray[np.float64]:
    """The noise of these images, float64 N x ``classes``, of standard deviation ``noise`` (a step of the ladder).

    ``digests`` are the images' digests, ``secret`` is that of the teacher's version.
    """
    steps = NOISE_STEPS[: NOISE_STEPS.index(noise) + 1]
    spreads = [math.sqrt(step**2 - below**2) for below, step in zip((0.0, *steps), steps, strict=False)]
    noise_nk = np.zeros((len(digests), classes))
    for row, digest in enumerate(digests):  # one by one: with a thousand classes the words of a batch are many
        stream = hashlib.shake_256(hmac.digest(secret, _DEFINITION + digest, "sha256"))
        words = np.frombuffer(stream.digest(2 * len(steps) * classes * _UNIFORMS), "<u2")
        sums = words.reshape(len(steps), classes, _UNIFORMS).sum(axis=2, dtype=np.int64)
        for spread, sums_k in zip(spreads, sums, strict=True):
            noise_nk[row] += spread * ((sums_k - _MEAN) / _UNIFORM_END)
    return noise_nk


def _tempered(
    probabilities_nk: NDArray[np.float32], temperature: float, noise_nk: NDArray[np.float64] | None
) -> NDArray[np.float64]:
    """softmax((log p + noise) / T), in float64.

    The temperature divides the noise too. Were the same noise added to two temperatures, a key of each could subtract
    it; so both see the same noisy distribution, only more or less of it.
    """
    with np.errstate(divide="ignore"):  # log 0: a class without probability stays without
        logits_nk = np.log(probabilities_nk.astype(np.float64))
    logits_nk /= temperature
    if noise_nk is not None:
        logits_nk += noise_nk / temperature
    logits_nk -= logits_nk.max(axis=1, keepdims=True)
    weights_nk = np.exp(logits_nk)
    tempered_nk: NDArray[np.float64] = weights_nk / weights_nk.sum(axis=1, keepdims=True)
    return tempered_nk


def _rounded(shown_nk: NDArray[np.float64], hidden_nk: NDArray[np.int64], decimals: int) -> NDArray[np.float64]:
    """Largest-remainder rounding: whole units of 10 ** -decimals, one whole per row; the lower index first in a tie.

    What is hidden is rounded as one number, after all others, so that what is shown sums to one less that.
    """
    units = 10**decimals
    shares_nk = shown_nk / shown_nk.sum(axis=1, keepdims=True)
    rest_n1 = np.take_along_axis(shares_nk, hidden_nk, axis=1).sum(axis=1, keepdims=True)
    np.put_along_axis(shares_nk, hidden_nk, 0.0, axis=1)
    scaled = np.hstack([shares_nk, rest_n1]) * units
    whole = np.floor(scaled)
    missing_n1 = units - whole.sum(axis=1, keepdims=True)
    ranks = np.argsort(np.argsort(whole - scaled, axis=1, kind="stable"), axis=1, kind="stable")
    rounded_nk: NDArray[np.float64] = (whole + (ranks < missing_n1))[:, :-1] / units
    return rounded_nk
