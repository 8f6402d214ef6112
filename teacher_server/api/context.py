"""What endpoints receive: the server's parts, and who is calling."""

from dataclasses import dataclass
from typing import Annotated

import anyio
import anyio.to_thread
from fastapi import Depends, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from shared.wire.error_codes import ErrorCode
from teacher_server.admission import Admission
from teacher_server.errors import Refusal
from teacher_server.labelling import Labelling
from teacher_server.ledger.audit.consistency import Consistency
from teacher_server.ledger.keys.issuing import Key
from teacher_server.ledger.ledger import Ledger
from teacher_server.settings import TeacherSettings
from teacher_server.teachers.catalogue import Catalogue


@dataclass(frozen=True)
class Server:
    """The parts of one running server, made in app.py."""

    settings: TeacherSettings
    catalogue: Catalogue
    ledger: Ledger
    admission: Admission
    labelling: Labelling
    answering_threads: anyio.CapacityLimiter
    parsing_threads: anyio.CapacityLimiter
    consistency: Consistency


def get_server(request: Request) -> Server:
    """The server that this request came to."""
    server = request.app.state.server
    assert isinstance(server, Server)
    return server


async def authenticate(
    request: Request,
    credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(HTTPBearer(auto_error=False))],
) -> Key:
    """The key in the Authorization header; only headers are read here. Raises Refusal(unauthenticated)."""
    if credentials is None:
        request.state.body_was_read = False
        raise Refusal(ErrorCode.UNAUTHENTICATED, "no key: send the header `Authorization: Bearer KEY`")
    try:
        return await anyio.to_thread.run_sync(get_server(request).ledger.authenticate, credentials.credentials)
    except Refusal:
        request.state.body_was_read = False
        raise


Caller = Annotated[Key, Depends(authenticate)]
CurrentServer = Annotated[Server, Depends(get_server)]
