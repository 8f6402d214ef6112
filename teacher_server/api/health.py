"""GET /healthz (the process answers) and /readyz (teachers are warm, the ledger can be written and adds up)."""

import anyio.to_thread
from fastapi import APIRouter

from shared.wire.contracts import Health
from shared.wire.error_codes import ErrorCode
from teacher_server.api.context import CurrentServer
from teacher_server.api.documented import problems

router = APIRouter(tags=["health"], responses=problems())


@router.get("/healthz", summary="Is the process alive?")
async def healthz() -> Health:
    """Asks nothing of the model or the ledger."""
    return Health(status="ok")


@router.get(
    "/readyz",
    summary="Can a label request be answered now?",
    responses=problems(ErrorCode.LEDGER_UNAVAILABLE, ErrorCode.LEDGER_INCONSISTENT),
)
async def readyz(server: CurrentServer) -> Health:
    """503 with `ledger_unavailable` when the ledger cannot be written; teachers are warm before the port opens.

    503 with `ledger_inconsistent` when it does not add up: the key concerned is sold nothing, the others are.
    """
    await anyio.to_thread.run_sync(server.ledger.check_writable)
    server.consistency.require_all_consistent()
    return Health(status="ok")
