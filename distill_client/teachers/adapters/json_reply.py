"""JSON that somebody else's server sent: read without trust."""

import json
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distill_client.errors import TeacherProtocolError
from distill_client.teachers.transport import HttpReply

_SHOWN_CHARACTERS = 120


def read_json(reply: HttpReply, content: bytes | None = None) -> Any:
    """What a reply's body says; ``content`` where only part of the body is JSON. NaN and Infinity are numbers.

    Raises TeacherProtocolError for what is not JSON, such as the HTML page of a proxy.
    """
    body = reply.content if content is None else content
    try:
        return json.loads(body)
    except (
        ValueError,
        RecursionError,
    ) as error:  # not UTF-8, no JSON, numbers of thousands of digits, brackets alone
        raise TeacherProtocolError(f"{reply.url}: the answer is not JSON: {shown(body)}") from error


def member(reply: HttpReply, document: object, key: str) -> Any:
    """``document[key]``. Raises TeacherProtocolError where there is none."""
    if not isinstance(document, dict) or key not in document:
        raise TeacherProtocolError(f"{reply.url}: the answer has no {key!r}: {shown(document)}")
    return document[key]


def read_numbers(where: str, data: object, *, null_is_nan: bool = False) -> NDArray[np.float64]:
    """Numbers, nested evenly or flat, as float64 of their shape; ``where`` is for messages.

    Raises TeacherProtocolError for anything else: texts, even of digits, truth values, uneven lists.
    """
    try:
        found: NDArray[np.object_] = np.array(data, dtype=object)
        wrong = set(map(type, found.flat)) - ({int, float, type(None)} if null_is_nan else {int, float})
        if wrong:
            names = ", ".join(sorted("uneven lists" if kind is list else kind.__name__ for kind in wrong))
            raise TeacherProtocolError(f"{where} holds {names} where numbers should be: {shown(data)}")
        return found.astype(np.float64)
    except (ValueError, OverflowError) as error:  # deeper than an array can be; integers of hundreds of digits
        raise TeacherProtocolError(f"{where} cannot be read as numbers: {shown(data)}") from error


def shown(value: object) -> str:
    """The beginning of what came, for a message."""
    text = value[:1000].decode("utf-8", errors="replace") if isinstance(value, bytes) else repr(value)[:1000]
    text = " ".join(text.split())
    return text if len(text) <= _SHOWN_CHARACTERS else text[:_SHOWN_CHARACTERS] + "..."
