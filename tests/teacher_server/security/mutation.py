"""Hostile bytes: good ones, damaged in the ways that break decoders, and bytes that were never good."""

from collections.abc import Callable, Sequence
from typing import TypeVar

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

INTERESTING = [
    b"",
    b"\0",
    b"\xff",
    b"\xff\xff\xff\xff",
    b"\x00\x00\x00\x00",
    b"\r\n",
    b'"',
    b"'",
    b"{",
    b"}",
    b"-",
    b"9" * 40,
]
EXAMPLES_LONG = 12_000
T = TypeVar("T")


def sizes(short: int = 300, long: int = EXAMPLES_LONG) -> pytest.MarkDecorator:
    """Parametrize ``examples``: a short form for `make test`, a long one for `make soak`."""
    return pytest.mark.parametrize(
        "examples", [pytest.param(short, id="short"), pytest.param(long, id="long", marks=pytest.mark.soak)]
    )


def feed(examples: int, source: st.SearchStrategy[T], consume: Callable[[T], None]) -> int:
    """Give ``consume`` that many inputs, new ones in every run; returns how many it had, those of shrinking aside."""
    fed = 0

    @settings(
        max_examples=examples,
        deadline=None,
        database=None,
        print_blob=True,
        suppress_health_check=list(HealthCheck),
    )
    @given(source)
    def consume_one(value: T) -> None:
        nonlocal fed
        fed += 1
        consume(value)

    consume_one()
    assert fed >= examples * 0.9, "the strategy ran out of inputs"
    return fed


@st.composite
def damaged(draw: st.DrawFn, good: Sequence[bytes]) -> bytes:
    """One of ``good`` with up to six wounds, mostly one, or bytes of no meaning."""
    content = bytearray(draw(st.sampled_from([*good, draw(st.binary(max_size=200))])))
    for _ in range(draw(st.sampled_from([0, 1, 1, 1, 2, 3, 6]))):
        at = draw(st.integers(0, len(content)))
        kind = draw(st.sampled_from(["flip", "digit", "insert", "cut", "drop", "repeat", "overwrite"]))
        if kind == "flip" and at < len(content):
            content[at] ^= 1 << draw(st.integers(0, 7))
        elif kind == "digit" and at < len(content):
            content[at] = draw(st.sampled_from(b"0123456789abcdef"))
        elif kind == "insert":
            content[at:at] = draw(st.sampled_from(INTERESTING) | st.binary(max_size=20))
        elif kind == "cut":
            del content[at:]
        elif kind == "drop":
            del content[at : at + draw(st.integers(1, 30))]
        elif kind == "repeat":
            content[at:at] = content[at : at + draw(st.integers(1, 300))]
        elif kind == "overwrite":
            new = draw(st.sampled_from(INTERESTING) | st.binary(min_size=1, max_size=8))
            content[at : at + len(new)] = new
    return bytes(content)
