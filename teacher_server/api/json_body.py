"""JSON from callers: bounded in what it costs to read, and refused with the field's name."""

from typing import TypeVar

from pydantic import BaseModel, ValidationError

from shared.wire.error_codes import ErrorCode
from teacher_server.errors import Refusal

# A value takes a byte or two on its way in and up to 150 once it is read. Lists and objects are also what Python's
# garbage collector walks through again and again while they are made, and nobody else is served meanwhile.
JSON_VALUES_MAX = 2_000_000
JSON_LISTS_MAX = 200_000
_FAULTS_TOLD_MAX = 3
T = TypeVar("T", bound=BaseModel)


def parse_json(content: bytes | memoryview, model: type[T]) -> T:
    """Read ``content`` as ``model``. Raises Refusal: body_too_large, invalid_request (which names the fields)."""
    text = bytes(content)
    lists = text.count(b"[") + text.count(b"{")
    values = lists + text.count(b",") + text.count(b":")
    if lists > JSON_LISTS_MAX or values > JSON_VALUES_MAX:
        raise Refusal(
            ErrorCode.BODY_TOO_LARGE,
            f"the JSON has some {values} values, {lists} of them lists or objects; allowed are {JSON_VALUES_MAX} and "
            f"{JSON_LISTS_MAX}: send large batches flat, or in binary",
        )
    try:
        return model.model_validate_json(text)
    except ValidationError as error:
        faults = error.errors(include_url=False, include_input=False, include_context=False)
        told = [
            f"{'.'.join(map(str, fault['loc'])) or 'body'}: {fault['msg'][:200]}"
            for fault in faults[:_FAULTS_TOLD_MAX]
        ]
        raise Refusal(ErrorCode.INVALID_REQUEST, "; ".join(told)) from error
