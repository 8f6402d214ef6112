"""Expressions that a teacher's file may hold: JMESPath into a JSON reply, and regular expressions over its text.

Both are compiled when the file is read, so that a mistake is found before anything is asked, by its key.
"""

import json
import re
from functools import lru_cache
from typing import Annotated

import jmespath
from jmespath.exceptions import JMESPathError
from pydantic import AfterValidator

_NESTING_MAX = 100  # no vendor's reply comes near it, and the walkers below it are recursive


def _require_jmespath(text: str) -> str:
    try:
        _compiled(text)
    except JMESPathError as error:
        raise ValueError(f"not a JMESPath expression: {' '.join(str(error).split())}") from error
    return text


def _require_pattern(text: str) -> str:
    try:
        re.compile(text)
    except re.error as error:
        raise ValueError(f"not a regular expression: {error}") from error
    return text


JmesPath = Annotated[str, AfterValidator(_require_jmespath)]
Pattern = Annotated[str, AfterValidator(_require_pattern)]


@lru_cache(maxsize=256)
def _compiled(text: str) -> jmespath.parser.ParsedResult:
    return jmespath.compile(text)


def find(expression: str, document: object) -> object:
    """What a JMESPath expression finds in parsed JSON; None for nothing.

    Raises ValueError where it cannot be evaluated on this document, such as a function of the wrong type.
    """
    try:
        return _compiled(expression).search(document)
    except (JMESPathError, TypeError, RecursionError) as error:
        raise ValueError(f"{expression!r} cannot be evaluated: {' '.join(str(error).split())[:200]}") from error


def parse_json(content: bytes) -> object:
    """A reply's JSON. Raises ValueError for anything else, for numbers that are none and for absurd nesting."""
    try:
        document = json.loads(content, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:  # UnicodeDecodeError is a ValueError
        raise ValueError(f"not JSON: {str(error)[:200]}") from error
    require_shallow(document)
    return document


def _no_constant(name: str) -> float:
    return float(name.replace("Infinity", "inf"))  # a score that is not finite is refused by its reader, by its place


def require_shallow(document: object) -> None:
    """Raise ValueError for parsed JSON that is nested absurdly deep."""
    level = [document]
    for _ in range(_NESTING_MAX):
        inner: list[object] = []
        for value in level:
            if isinstance(value, dict):
                inner.extend(value.values())
            elif isinstance(value, list):
                inner.extend(value)
        level = [value for value in inner if isinstance(value, dict | list)]
        if not level:
            return
    raise ValueError(f"JSON nested deeper than {_NESTING_MAX} levels")
