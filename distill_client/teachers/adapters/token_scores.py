"""From a language model's log-probabilities, token by token, to scores of classes.

The rule. The answer's first token that belongs to the class's name is looked at, with the tokens that might have been
in its place. One that only one class's name can begin with gives that class its probability. One that several can
begin with says nothing about any of them, unless it is the token that was written: then the same is done at the next
token, for those classes alone, and what is found there is multiplied with its probability. Classes that no token
tells apart stay without a score, and so does what is left to 1.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Token:
    """One token that was written, and the probabilities of those that might have been, by their bytes."""

    written: bytes
    probability: float
    alternatives: Mapping[bytes, float]


def class_scores(tokens: Sequence[Token], names: Mapping[str, bytes], start: int) -> dict[str, float]:
    """Scores of the classes that the tokens tell apart.

    ``names``: each class as it is written, with what ends it; ``start``: the byte where the name begins.
    """
    place, end = 0, 0
    for place, token in enumerate(tokens):  # noqa: B007 - where the name begins is wanted after the loop
        end += len(token.written)
        if end > start:
            break
    else:
        return {}
    before = tokens[place].written[: len(tokens[place].written) - (end - start)]
    scores: dict[str, float] = {}
    left, mass = dict(names), 1.0
    for token in tokens[place:]:
        written = token.written[len(before) :]
        for other, probability in token.alternatives.items():
            if other == token.written or not other.startswith(before):
                continue
            found = _begun_by(other[len(before) :], left)
            if len(found) == 1:
                scores[found[0]] = scores.get(found[0], 0.0) + mass * probability
        mass *= token.probability
        found = _begun_by(written, left)
        if len(found) <= 1:
            break
        left = {name: left[name][len(written) :] for name in found}
        before = b""
    else:  # the answer ends where another name would go on
        found = [name for name, rest in left.items() if not rest]
    if len(found) == 1:
        scores[found[0]] = scores.get(found[0], 0.0) + mass
    return {name: min(score, 1.0) for name, score in scores.items()}


def probability_of(logarithm: float) -> float:
    """Never above 1; what is far below is 0."""
    return math.exp(min(logarithm, 0.0))


def _begun_by(token: bytes, left: Mapping[str, bytes]) -> list[str]:
    """The classes whose name the token may be the next part of; it may also go beyond the name's end."""
    if not token:
        return []
    return [name for name, rest in left.items() if rest and (rest.startswith(token) or token.startswith(rest))]
