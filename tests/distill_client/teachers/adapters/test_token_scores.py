"""Scores from tokens: the written rule, and what holds whatever the tokens are."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distill_client.teachers.adapters.token_scores import Token, class_scores

NAMES = {"cat": b'cat"', "car": b'car"', "dog": b'dog"'}


def token(written: str, **probabilities: float) -> Token:
    """A token with what might have been in its place; ``_`` stands for the quotation mark."""
    found = {text.replace("_", '"').encode(): value for text, value in probabilities.items()}
    return Token(written.encode(), found[written.encode()], found)


def test_first_tokens_that_tell_all_apart() -> None:
    assert class_scores([token("cat", cat=0.6, car=0.3, dog=0.1)], NAMES, 0) == pytest.approx(
        {"cat": 0.6, "car": 0.3, "dog": 0.1}
    )


def test_a_shared_beginning_is_told_apart_by_the_next_token() -> None:
    tokens = [token("ca", ca=0.8, dog=0.2), token("t", t=0.75, r=0.25)]
    assert class_scores(tokens, NAMES, 0) == pytest.approx({"cat": 0.6, "car": 0.2, "dog": 0.2})


def test_a_shared_beginning_that_was_not_written_says_nothing() -> None:
    assert class_scores([token("dog", dog=0.5, ca=0.5)], NAMES, 0) == pytest.approx({"dog": 0.5})


def test_several_tokens_for_one_class_add_up() -> None:
    assert class_scores([token("dog", dog=0.5, d=0.2, do=0.1, dog_=0.1)], NAMES, 0) == pytest.approx({"dog": 0.9})


def test_the_name_may_begin_inside_a_token() -> None:
    tokens = [Token(b'{"class":', 1.0, {}), Token(b' "d', 0.7, {b' "d': 0.7, b' "cat': 0.2, b" [": 0.1})]
    assert class_scores(tokens, NAMES, len(b'{"class": "')) == pytest.approx({"dog": 0.7, "cat": 0.2})


def test_a_name_that_begins_another() -> None:
    names = {"coat": b"coat", "coat rack": b"coat rack"}
    assert class_scores([token("coat", coat=0.9)], names, 0) == pytest.approx({"coat": 0.9})
    tokens = [Token(b"coat", 0.9, {}), Token(b" rack", 0.5, {b" rack": 0.5})]
    assert class_scores(tokens, names, 0) == pytest.approx({"coat rack": 0.45})


@pytest.mark.parametrize("tokens", [[], [Token(b"cat", 0.5, {})], [Token(b"", 1.0, {})]])
def test_a_name_that_is_beyond_the_tokens(tokens: list[Token]) -> None:
    assert class_scores(tokens, NAMES, 10) == {}


TEXT = st.binary(max_size=4).map(lambda raw: bytes(b'catrdog"'[byte % 8] for byte in raw))


@st.composite
def written(draw: st.DrawFn) -> list[Token]:
    found = []
    for _ in range(draw(st.integers(0, 5))):
        texts = draw(st.lists(TEXT, min_size=1, max_size=6, unique=True))
        weights = [draw(st.floats(0.01, 1)) for _ in texts]
        chances = {text: weight / sum(weights) for text, weight in zip(texts, weights, strict=True)}
        found.append(Token(texts[0], chances[texts[0]], chances))
    return found


@settings(max_examples=300, deadline=None)
@given(written(), st.integers(0, 6))
def test_whatever_comes_is_part_of_a_distribution(tokens: list[Token], start: int) -> None:
    scores = class_scores(tokens, NAMES, start)
    assert set(scores) <= set(NAMES)
    assert all(0 <= score <= 1 for score in scores.values())
    assert math.fsum(scores.values()) <= 1 + 1e-9
