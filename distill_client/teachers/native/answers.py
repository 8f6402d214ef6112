"""From a response's headers and bytes to an answer, or to the reason why it is none."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from distill_client.errors import TeacherProtocolError
from distill_client.teachers.protocol import Answer, Values
from shared.wire import contracts
from shared.wire.contracts import PROBABILITY_DECIMALS, Disclosure
from shared.wire.images import InvalidImages, decode_npy

_TEACHER_SUM_TOLERANCE = 1e-3  # how far a row of a network's own probabilities may be from one


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


def _require_sums(disclosed_nk: NDArray[np.float64], disclosure: Disclosure) -> None:
    """Rows that name every class sum to one, others to no more: exactly, in units of the last decimal, where the
    policy names decimals; else as nearly as the teacher's own rows, each number rounded by itself.
    """
    units = 10 ** (PROBABILITY_DECIMALS if disclosure.decimals is None else disclosure.decimals)
    are_whole_n: NDArray[np.bool_] = np.asarray(~np.isnan(disclosed_nk).any(axis=1))
    scaled_nk = np.nan_to_num(disclosed_nk) * units
    if disclosure.decimals is None:
        off = _TEACHER_SUM_TOLERANCE * units + disclosed_nk.shape[1] / 2
    else:
        off = 0.5
        if (np.abs(scaled_nk - scaled_nk.round()) > 0.1).any():
            raise ValueError(f"a probability has more decimals than disclosure {disclosure} says")
        scaled_nk = scaled_nk.round()
    sums_n = scaled_nk.sum(axis=1)
    wrong = np.flatnonzero((sums_n > units + off) | (are_whole_n & (sums_n < units - off)))
    if len(wrong):
        raise ValueError(
            f"row {wrong[0]} sums to {sums_n[wrong[0]] / units:g}; allowed is one"
            f"{'' if are_whole_n[wrong[0]] else ' at most'} under disclosure {disclosure}"
        )


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
        _require_sums(probabilities_nk.astype(np.float64), disclosure)
        return probabilities_nk
    raise ValueError(f"{array.dtype} of shape {array.shape} is no answer to {images} images under {disclosure}")
