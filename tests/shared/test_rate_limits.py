"""The RateLimit header fields, in the form of the IETF's draft."""

import re

from shared.wire.rate_limits import RateLimit, rate_limit_headers

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
