"""Plain ASGI middleware: every request gets an id, which its answer carries and its errors name."""

import uuid

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from shared.wire.contracts import HEADER_REQUEST_ID


class RequestIdMiddleware:
    """Sets ``scope["state"]["request_id"]`` and the Request-Id header, unless the answer already has one."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on with its id."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = uuid.uuid4().hex
        scope.setdefault("state", {})["request_id"] = request_id

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                # A replayed answer names the request that was charged, not the one that asked again.
                MutableHeaders(scope=message).setdefault(HEADER_REQUEST_ID, request_id)
            await send(message)

        await self._app(scope, receive, send_with_id)
