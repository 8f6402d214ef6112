"""The RateLimit header fields, in the form of the IETF's draft."""

import re
import time

import pytest

from shared.wire.rate_limits import RateLimit, rate_limit_headers, read_rate_limit

LIFETIME = RateLimit("lifetime", 50_000, 41_230)


def test_one_member_per_limit_in_both_fields() -> None:
    limits = [LIFETIME, RateLimit("day", 2_000, 0, 86_400, 1_399), RateLimit("rate", 100, 100, 10)]
    assert rate_limit_headers(limits) == {
        "RateLimit-Policy": '"lifetime";q=50000;teacher-unit="images", "day";q=2000;w=86400;teacher-unit="images", '
        '"rate";q=100;w=10;teacher-unit="images"',
        "RateLimit": '"lifetime";r=41230, "day";r=0;t=1399, "rate";r=100',
    }


def test_no_integer_has_more_digits_than_a_structured_field_may_have() -> None:
    headers = rate_limit_headers([RateLimit("lifetime", 2**53 - 1, 2**53 - 2)])
    assert re.findall(r"\d+", "".join(headers.values())) == ["999999999999999"] * 2


@pytest.mark.parametrize(
    ("value", "wanted"),
    [
        ('"day";r=0;t=14', [("day", 0, 14)]),
        ('"life";r=46, "rate";r=6;t=3', [("life", 46, None), ("rate", 6, 3)]),
        ("default;r=50;t=30", [("default", 50, 30)]),
        ('"a";r=1;pk=:cGs9O3I9MA==:;t=2', [("a", 1, 2)]),
        ('"a, \\"b\\";r=9";r=1;x="q;t=99";t=2', [('a, \\"b\\";r=9', 1, 2)]),
        ('"a" ; r=1 ; t=2', [("a", 1, 2)]),
        ("limit=100, remaining=0, reset=14", []),
        ('"a";r=-1', []),
        ('"a";r=1.5', []),
        ('"a";r=99999999999999999999', []),
        ("", []),
        (";;;,,,", []),
        ('"never closed;r=0;t=5', []),
    ],
)
def test_anybodys_field_is_read(value: str, wanted: list[tuple[str, int, int | None]]) -> None:
    assert [(limit.name, limit.remaining, limit.resets_after_s) for limit in read_rate_limit(value)] == wanted


def test_what_our_server_writes_is_read() -> None:
    limits = [RateLimit("lifetime", 50, 46), RateLimit("rate", 10, 0, window_s=10, resets_after_s=10)]
    found = read_rate_limit(rate_limit_headers(limits)["RateLimit"])
    assert [(limit.name, limit.remaining, limit.resets_after_s) for limit in found] == [
        ("lifetime", 46, None),
        ("rate", 0, 10),
    ]


@pytest.mark.parametrize("part", ['"', "a;", ' "a', ";r=1", ' ;r=0;t="', "\\", ","])
def test_a_field_made_to_be_slow_is_read_in_time(part: str) -> None:
    began = time.monotonic()
    read_rate_limit(part * 100_000)
    assert time.monotonic() - began < 1
