"""What a connection may cost before anybody knows who is calling: uvicorn's HTTP protocol, bounded.

uvicorn reads a request's head without a limit of size or time, up to 320 KiB of a body before the application asks
for it, and every request that is sent ahead of the answers. Here a head is at most 16 KiB and arrives in time, a body
is read only when the application asks (which it does once it knows the key), and what is sent ahead is not read.
What cannot be read as HTTP is answered by a problem document too. See docs/decisions/0010-bounded-connections.md.
"""

import asyncio
import asyncio.constants
import asyncio.sslproto
from typing import Any, cast

from uvicorn.config import Config
from uvicorn.server import ServerState

from teacher_server.http_protocol import READ_BYTES, BoundedHttp, ConnectionLimits

_READ_BYTES_OF_BODY = 64 * 2**10
_READ_BYTES_OF_TLS = 17 * 2**10


def bound_tls(limits: ConnectionLimits) -> None:
    """Have asyncio read as little at once from a TLS connection, of each it would hold 512 KiB, and wait as briefly.

    uvloop has the same bounds and no way to change them, so TLS is served by asyncio's own loop. uvicorn passes on no
    time for the handshake; asyncio's own is a minute.
    """
    asyncio.sslproto.SSLProtocol.max_size = _READ_BYTES_OF_TLS  # a whole record of TLS, as OpenSSL needs one
    asyncio.constants.SSL_HANDSHAKE_TIMEOUT = limits.head_timeout_s


def bounded_protocol(limits: ConnectionLimits) -> type[asyncio.Protocol]:
    """What ``uvicorn.Config(http=...)`` takes, for one server."""
    # Every connection of a server reads into this one: a read and its parsing are one step of the event loop.
    buffer = memoryview(bytearray(_READ_BYTES_OF_BODY))

    def connect(
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> "_SmallReads":
        return _SmallReads(BoundedHttp(limits, config, server_state, app_state), buffer)

    return cast("type[asyncio.Protocol]", connect)  # uvicorn only ever calls it


class _SmallReads(asyncio.BufferedProtocol):
    """Says how much is read from the socket at once; an ``asyncio.Protocol`` gets 256 KiB whether it likes or not."""

    def __init__(self, http: BoundedHttp, buffer: memoryview) -> None:
        self._http = http
        self._buffer = buffer

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._http.connection_made(cast("asyncio.Transport", transport))

    def connection_lost(self, exc: Exception | None) -> None:
        self._http.connection_lost(exc)

    def pause_writing(self) -> None:
        self._http.pause_writing()

    def resume_writing(self) -> None:
        self._http.resume_writing()

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._buffer[: _READ_BYTES_OF_BODY if self._http.wants_body else READ_BYTES]

    def buffer_updated(self, nbytes: int) -> None:
        self._http.data_received(bytes(self._buffer[:nbytes]))
