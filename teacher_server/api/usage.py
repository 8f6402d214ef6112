"""GET /v1/usage and /v1/events: what the calling key has spent, and its own part of the log."""

from typing import Annotated

import anyio.to_thread
from fastapi import APIRouter, Query

from shared.wire.contracts import EventSignature, EventsPage, Usage
from shared.wire.error_codes import ErrorCode
from teacher_server.api.context import Caller, CurrentServer
from teacher_server.api.documented import problems

router = APIRouter(
    tags=["usage"],
    responses=problems(ErrorCode.UNAUTHENTICATED, ErrorCode.LEDGER_UNAVAILABLE, ErrorCode.INVALID_REQUEST),
)

EVENTS_PER_PAGE_MAX = 1000
SEQUENCE_MAX = 2**53 - 1


@router.get("/v1/usage", summary="The calling key's budget")
async def get_usage(key: Caller) -> Usage:
    """Images granted, spent and remaining, as durably recorded."""
    return key.usage


@router.get("/v1/events", summary="The calling key's own events, oldest first")
async def get_events(
    key: Caller,
    server: CurrentServer,
    after: Annotated[int, Query(ge=0, le=SEQUENCE_MAX, description="the last sequence number already seen")] = 0,
    limit: Annotated[int, Query(ge=1, le=EVENTS_PER_PAGE_MAX)] = EVENTS_PER_PAGE_MAX,
) -> EventsPage:
    """A hash chain: each event carries the hash of the one before; no other key's events are in it."""
    found = await anyio.to_thread.run_sync(lambda: server.ledger.history(key, after=after, limit=limit))
    return EventsPage(
        key_name=key.name,
        events=[signed.event for signed in found],
        signatures=[EventSignature(signing_key=signed.signing_key, signature=signed.signature) for signed in found],
        next_after=found[-1].event.sequence if len(found) == limit else None,
    )
