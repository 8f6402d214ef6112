"""The steps of every purchase, whatever protocol it came by: who may, what was asked, the answer and what it says."""

import base64
import re
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Annotated

import anyio.to_thread
import numpy as np
from fastapi import Depends, Header, Request
from numpy.typing import NDArray

from shared.wire import contracts
from shared.wire.contracts import PROBABILITY_DECIMALS
from shared.wire.error_codes import ErrorCode
from teacher_server.api.context import Server
from teacher_server.decoding import Body
from teacher_server.errors import Refusal
from teacher_server.labelling import LabelRequest
from teacher_server.ledger.charging.answers import Answered
from teacher_server.ledger.keys.issuing import Key

# What any purchase may be refused for, beside what any address may answer.
REFUSALS = (
    ErrorCode.UNAUTHENTICATED,
    ErrorCode.BUDGET_EXHAUSTED,
    ErrorCode.NOT_FOUND,
    ErrorCode.TEACHER_NOT_FOUND,
    ErrorCode.BODY_TOO_LARGE,
    ErrorCode.TOO_MANY_IMAGES,
    ErrorCode.UNSUPPORTED_MEDIA_TYPE,
    ErrorCode.INVALID_REQUEST,
    ErrorCode.INVALID_IMAGES,
    ErrorCode.INVALID_IDEMPOTENCY_KEY,
    ErrorCode.IDEMPOTENCY_KEY_REUSED,
    ErrorCode.STILL_RUNNING,
    ErrorCode.ANSWER_EXPIRED,
    ErrorCode.DISCLOSURE_CHANGED,
    ErrorCode.RATE_LIMITED,
    ErrorCode.DAILY_BUDGET_EXHAUSTED,
    ErrorCode.LEDGER_UNAVAILABLE,
    ErrorCode.LEDGER_INCONSISTENT,
)

# Said in the document only: what does not fit is refused with a code of its own.
_KEY_SCHEMA: dict[str, object] = {"pattern": contracts.IDEMPOTENCY_KEY_PATTERN, "minLength": 1, "maxLength": 255}


def require_idempotency_key(
    request: Request,
    idempotency_key: Annotated[str | None, Header(json_schema_extra=_KEY_SCHEMA)] = None,
) -> str:
    """The Idempotency-Key as given, or a new one. Raises Refusal(invalid_idempotency_key)."""
    request.state.body_was_read = False
    if idempotency_key is None:
        return uuid.uuid4().hex
    if not re.fullmatch(contracts.IDEMPOTENCY_KEY_PATTERN, idempotency_key):
        raise Refusal(
            ErrorCode.INVALID_IDEMPOTENCY_KEY,
            f"Idempotency-Key is {idempotency_key[:80]!r}; allowed are 1 to 255 printable ASCII characters "
            "without spaces",
        )
    return idempotency_key


IdempotencyKey = Annotated[str, Depends(require_idempotency_key)]


@dataclass(frozen=True)
class Asked:
    """Who asks whom, and under which name; the images are still to be read. ``version`` None: the default one."""

    key: Key
    name: str
    version: str | None
    idempotency_key: str


@asynccontextmanager
async def admitted(server: Server, asked: Asked) -> AsyncIterator[None]:
    """A place for one purchase, within which its body may be read; nobody is given one who could not be answered.

    Raises Refusal: ledger_inconsistent, teacher_not_found, overloaded.
    """
    server.consistency.require_consistent(asked.key.id)
    if server.catalogue.find(asked.name, asked.version) is None:
        # Refused before the body is read, unless an earlier answer may be asked for again.
        require = server.labelling.require_answerable
        await anyio.to_thread.run_sync(require, asked.key, asked.name, asked.version, asked.idempotency_key)
    with server.admission.request(asked.key):
        yield


async def answer(request: Request, server: Server, asked: Asked, body: Body) -> Answered:
    """Have an admitted request answered and charged, under the id that it has been given. Raises Refusal."""
    label_request = LabelRequest(
        asked.key,
        asked.name,
        body,
        asked.idempotency_key,
        request.state.request_id,
        asked.version,
        request.headers.get(contracts.HEADER_DISCLOSURE),
    )
    return await anyio.to_thread.run_sync(server.labelling.answer, label_request, limiter=server.answering_threads)


def answer_headers(answered: Answered) -> dict[str, str]:
    """What every answer says of itself: who answered, what was charged by which event, the receipt, the limits."""
    event = answered.event
    marks = dict(answered.standing.headers)
    if answered.is_recomputed:
        marks[contracts.HEADER_RECOMPUTED] = "true"
    if receipt := encoded_receipt(answered):
        marks[contracts.HEADER_RECEIPT] = receipt
    return marks | {
        contracts.HEADER_REQUEST_ID: answered.request_id,
        contracts.HEADER_IDEMPOTENCY_KEY: event.idempotency_key,
        contracts.HEADER_REPLAYED: str(answered.is_replay).lower(),
        contracts.HEADER_TEACHER: event.teacher,
        contracts.HEADER_VERSION: event.version,
        contracts.HEADER_DISCLOSURE: event.disclosure,
        contracts.HEADER_CHARGED: str(event.images),
        contracts.HEADER_SPENT: str(event.spent),
        contracts.HEADER_REMAINING: str(answered.remaining),
        contracts.HEADER_EVENT_SEQUENCE: str(event.sequence),
        contracts.HEADER_EVENT_HASH: event.hash,
    }


def encoded_receipt(answered: Answered) -> str:
    """The receipt as a header carries it, base64url of its JSON; empty where the event was not signed."""
    receipt = answered.signed.receipt
    if receipt is None:
        return ""
    return base64.urlsafe_b64encode(receipt.model_dump_json().encode()).decode("ascii").rstrip("=")


def rounded(values: NDArray[np.float32]) -> NDArray[np.float64]:
    """Disclosed probabilities as the decimals that were meant, which float32 holds exactly enough to give back."""
    exact: NDArray[np.float64] = values.astype(np.float64)
    return exact.round(PROBABILITY_DECIMALS)


def ranked(row: NDArray[np.float64]) -> NDArray[np.int64]:
    """The classes of one row that are disclosed, the most probable first, the lower index first among equals."""
    disclosed = np.flatnonzero(~np.isnan(row))
    return disclosed[np.argsort(-row[disclosed], kind="stable")]
