"""How long a reply asks to be left alone: by its headers or, where vendors put it there, by its body.

Read are ``retry-after-ms``, ``Retry-After`` in both forms, ``RateLimit`` of the IETF draft and the fields of its
older forms, OpenAI's ``x-ratelimit-reset-*``, Google's ``RetryInfo`` and Hugging Face's ``estimated_time``.
"""

import math
import re
from collections.abc import Mapping

from distill_client.teachers.expressions import find
from distill_client.teachers.manners.patience import retry_after_s
from shared.wire.rate_limits import HEADER_RATE_LIMIT, read_rate_limit

_UNITS_S = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 0.001}
_DURATION = re.compile(r"(?:\d{1,9}(?:\.\d{1,9})?(?:ms|h|m|s))+")
_PART = re.compile(r"(\d+(?:\.\d+)?)(ms|h|m|s)")
_NUMBER = re.compile(r"\d{1,12}(?:\.\d{1,9})?")
_SPENT_BY_VENDOR = ("requests", "tokens")
# Where Google says it, then where Hugging Face does while it loads a model.
_BODY_PATHS = ("error.details[].retryDelay | [0]", "estimated_time")


def asked_pause_s(headers: Mapping[str, str], document: object = None) -> float | None:
    """The pause that a refusal asks for, in seconds; ``document`` is its body where it is JSON. None for none."""
    milliseconds = headers.get("retry-after-ms", "").strip()
    if _NUMBER.fullmatch(milliseconds):
        return float(milliseconds) / 1000
    if (after_s := retry_after_s(headers.get("retry-after", "").strip())) is not None:
        return after_s
    if (spent_s := spent_limit_s(headers)) is not None:
        return spent_s
    return _from_body(document)


def spent_limit_s(headers: Mapping[str, str]) -> float | None:
    """Seconds until a limit that this reply, be it an answer, has used up is there again; None where none is.

    A limit that never comes back, such as a budget, asks for no pause.
    """
    found = [
        float(limit.resets_after_s)
        for limit in read_rate_limit(headers.get(HEADER_RATE_LIMIT, ""))
        if limit.remaining == 0 and limit.resets_after_s is not None
    ]
    if headers.get("ratelimit-remaining", "").strip() == "0":
        found += _seconds(headers.get("ratelimit-reset", ""))
    for what in _SPENT_BY_VENDOR:
        if headers.get(f"x-ratelimit-remaining-{what}", "").strip() == "0":
            found += _seconds(headers.get(f"x-ratelimit-reset-{what}", ""))
    return max(found, default=None)


def _seconds(text: str) -> list[float]:
    """From ``14``, ``0.5``, ``6m0s`` or ``20ms``; nothing for anything else."""
    text = text.strip()
    if _NUMBER.fullmatch(text):
        return [float(text)]
    if _DURATION.fullmatch(text):
        return [sum(float(number) * _UNITS_S[unit] for number, unit in _PART.findall(text))]
    return []


def _from_body(document: object) -> float | None:
    for path in _BODY_PATHS:
        try:
            found = find(path, document)
        except ValueError:
            continue
        if isinstance(found, int | float) and not isinstance(found, bool) and math.isfinite(found) and found >= 0:
            return float(found)
        if isinstance(found, str) and (seconds := _seconds(found)):
            return seconds[0]
    return None
