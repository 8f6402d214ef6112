"""GET /.well-known/teacher-signing-keys: whose signatures this ledger's receipts carry."""

import anyio.to_thread
from fastapi import APIRouter

from shared.wire.contracts import SIGNING_KEYS_PATH, SigningKeys
from shared.wire.error_codes import ErrorCode
from teacher_server.api.context import CurrentServer
from teacher_server.api.documented import problems

router = APIRouter(tags=["receipts"], responses=problems(ErrorCode.LEDGER_UNAVAILABLE))


@router.get(SIGNING_KEYS_PATH, summary="The public keys that receipts are signed with")
async def get_signing_keys(server: CurrentServer) -> SigningKeys:
    """No key is needed. Pin the newest one's fingerprint at first use; later ones are endorsed by those before."""
    return await anyio.to_thread.run_sync(server.ledger.signing_keys)
