"""RateLimit-Policy and RateLimit, as of draft-ietf-httpapi-ratelimit-headers-10: what a key's limits are and leave.

The server writes both; the client reads ``RateLimit``, anybody's.

``images`` is no unit that the draft knows, so each policy says its unit in a parameter of our own.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

HEADER_RATE_LIMIT_POLICY = "RateLimit-Policy"
HEADER_RATE_LIMIT = "RateLimit"
UNIT = 'teacher-unit="images"'
_QUOTED = r'"(?:[^"\\]|\\.)*"'
_ITEM = re.compile(rf'(?P<name>{_QUOTED}|[A-Za-z*][^\s;,"]*)(?P<parameters>(?:[^,"]|{_QUOTED})*)')
_PARAMETER = re.compile(r";\s*(?P<name>[a-z*][a-z0-9_.*-]*)=(?P<value>[0-9]{1,15})(?=\s*(?:;|$))")
_FIELD_CHARACTERS = 8192  # more of a field is not read
_INTEGER_MAX = 10**15 - 1  # the largest that a structured field may hold


@dataclass(frozen=True)
class RateLimit:
    """One limit in images: ``quota`` of which ``remaining`` are left.

    ``window_s``: the seconds it is for; None for the whole life of a key. ``resets_after_s``: seconds until all of it
    is there again; None where that never happens, or it is all there.
    """

    name: str
    quota: int
    remaining: int
    window_s: int | None = None
    resets_after_s: int | None = None


def rate_limit_headers(limits: Sequence[RateLimit]) -> dict[str, str]:
    """Both header fields, as structured fields."""
    return {
        HEADER_RATE_LIMIT_POLICY: ", ".join(map(_policy, limits)),
        HEADER_RATE_LIMIT: ", ".join(map(_state, limits)),
    }


def _policy(limit: RateLimit) -> str:
    window = "" if limit.window_s is None else f";w={limit.window_s}"
    return f'"{limit.name}";q={min(limit.quota, _INTEGER_MAX)}{window};{UNIT}'


def _state(limit: RateLimit) -> str:
    reset = "" if limit.resets_after_s is None else f";t={limit.resets_after_s}"
    return f'"{limit.name}";r={min(limit.remaining, _INTEGER_MAX)}{reset}'


@dataclass(frozen=True)
class LimitState:
    """What another's ``RateLimit`` field says of one limit; ``resets_after_s`` is None where it says nothing."""

    name: str
    remaining: int
    resets_after_s: int | None = None


def read_rate_limit(value: str) -> list[LimitState]:
    """The limits in a ``RateLimit`` field; what cannot be read of it is passed over, for it is only advice."""
    states: list[LimitState] = []
    value = value[:_FIELD_CHARACTERS]
    if '"' in re.sub(_QUOTED, "", value):
        return states  # a text that is not closed: where the next item begins is not known
    for item in _ITEM.finditer(value):
        parameters = re.sub(_QUOTED, "", item["parameters"])
        numbers = {found["name"]: int(found["value"]) for found in _PARAMETER.finditer(parameters)}
        if "r" in numbers:
            states.append(LimitState(item["name"].strip('"'), numbers["r"], numbers.get("t")))
    return states
