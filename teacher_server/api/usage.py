"""GET /v1/usage and /v1/events: what the calling key has spent, and its own part of the log."""

from typing import Annotated

import anyio.to_thread
from fastapi import APIRouter, Query, Response

from shared.wire.contracts import EventSignature, EventsPage, KeyUsage
from shared.wire.error_codes import ErrorCode
from teacher_server.api.context import Caller, CurrentServer
from teacher_server.api.documented import problems

router = APIRouter(
    tags=["usage"],
    responses=problems(ErrorCode.UNAUTHENTICATED, ErrorCode.LEDGER_UNAVAILABLE, ErrorCode.INVALID_REQUEST),
)

EVENTS_PER_PAGE_MAX = 1000
SEQUENCE_MAX = 2**53 - 1


@router.get("/v1/usage", summary="The calling key's budget and limits", response_model_exclude_none=True)
async def get_usage(key: Caller, server: CurrentServer, response: Response) -> KeyUsage:
    """Images granted, spent and remaining, as durably recorded; the same of a day and a rate, if limited."""
    standing = await anyio.to_thread.run_sync(server.ledger.standing, key)
    response.headers.update(standing.headers)
    day, rate = standing.day, standing.rate
    return KeyUsage(
        granted=standing.granted,
        spent=standing.spent,
        remaining=standing.granted - standing.spent,
        images_per_day=day.quota if day else None,
        spent_today=day.spent if day else None,
        day_ends_after_s=day.ends_after_s if day else None,
        images_per_second=key.limits.images_per_second,
        window_s=rate.length_s if rate else None,
        spent_in_window=rate.spent if rate else None,
        expires_at=key.expires_at,
    )


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
