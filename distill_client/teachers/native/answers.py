"""From a response's headers and bytes to an answer, or to the reason why it is none."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from distill_client.errors import TeacherProtocolError
from distill_client.teachers.protocol import Answer, Values
from shared.wire import contracts
from shared.wire.contracts import Disclosure
from shared.wire.images import InvalidImages, decode_npy


def read_answer(headers: Mapping[str, str], content: bytes, *, images: int) -> Answer:
    """The answer to ``images`` images; its receipt is handed on unread. Raises TeacherProtocolError."""
    try:
        disclosure = Disclosure.parse(headers[contracts.HEADER_DISCLOSURE])
        answer = Answer(
            values=_require_values(decode_npy(content), images, disclosure),
            version=headers[contracts.HEADER_VERSION],
            disclosure=str(disclosure),
            charged=int(headers[contracts.HEADER_CHARGED]),
            spent=int(headers[contracts.HEADER_SPENT]),
            remaining=int(headers[contracts.HEADER_REMAINING]),
            event_sequence=int(headers[contracts.HEADER_EVENT_SEQUENCE]),
            event_hash=headers[contracts.HEADER_EVENT_HASH],
            receipt=headers.get(contracts.HEADER_RECEIPT, ""),
            is_recomputed=headers.get(contracts.HEADER_RECOMPUTED, "").lower() == "true",
        )
    except (InvalidImages, KeyError, ValueError) as error:
        raise TeacherProtocolError(f"the answer to {images} images does not fit the contract: {error}") from error
    if answer.charged != images:
        raise TeacherProtocolError(f"{images} images were sent, {answer.charged} charged")
    return answer


def _require_values(array: NDArray[np.generic], images: int, disclosure: Disclosure) -> Values:
    if disclosure.kind == "label":
        if array.dtype == np.int64 and array.shape == (images,):
            return array.astype(np.int64)
    elif array.dtype == np.float32 and array.ndim == 2 and len(array) == images:
        probabilities_nk = array.astype(np.float32)
        disclosed_nk = ~np.isnan(probabilities_nk)
        if ((probabilities_nk < 0) | (probabilities_nk > 1)).any():
            raise ValueError("a probability lies outside 0 to 1")
        most = probabilities_nk.shape[1] if disclosure.kind == "probabilities" else disclosure.k
        if (disclosed_nk.sum(axis=1) != min(most, probabilities_nk.shape[1])).any():
            raise ValueError(f"an answer does not name as many classes as disclosure {disclosure} says")
        return probabilities_nk
    raise ValueError(f"{array.dtype} of shape {array.shape} is no answer to {images} images under {disclosure}")
