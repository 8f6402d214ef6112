"""uvicorn's HTTP/1.1 protocol with bounds: on a request's head, on what is sent ahead of an answer, on waiting."""

import asyncio
import math
import uuid
from dataclasses import dataclass
from typing import Any, cast

import httptools
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol
from uvicorn.server import ServerState

from shared.wire.error_codes import ERROR_KINDS, ErrorCode
from teacher_server.errors import Refusal
from teacher_server.problems import render_problem

HEAD_BYTES_MAX = 16 * 2**10
HEADERS_MAX = 100
LINGER_S = 2.0  # for how long a body nobody wants is read and dropped, so that its sender gets to read the answer
READ_BYTES = 4 * 2**10  # at once, until the application asks for a body


@dataclass(frozen=True)
class ConnectionLimits:
    """What the settings say of connections."""

    connections_max: int
    head_timeout_s: float
    send_timeout_s: float


class _ClosingWithCare:
    """The transport as one request's answer uses it."""

    def __init__(self, http: "BoundedHttp") -> None:
        self._http = http
        self.write = http.transport.write
        self.is_closing = http.transport.is_closing

    def close(self) -> None:
        self._http.close()


class BoundedHttp(HttpToolsProtocol):
    """One connection. Its clock runs whenever the peer is the one to act: for a head, for taking an answer."""

    def __init__(
        self, limits: ConnectionLimits, config: Config, server_state: ServerState, app_state: dict[str, Any]
    ) -> None:
        super().__init__(config=config, server_state=server_state, app_state=app_state)
        self._limits = limits
        self.timeout_keep_alive = math.ceil(limits.head_timeout_s)
        self._head_clock: asyncio.TimerHandle | None = None
        self._send_clock: asyncio.TimerHandle | None = None
        self._is_deaf = False  # nothing that comes from now on is looked at
        self._is_closing = False
        self._is_head_complete = self._is_message_complete = False
        self._head_bytes = 0  # of the lines that are complete
        self._unused_bytes = 0  # read since the parser last had something to show for it

    @property
    def wants_body(self) -> bool:
        """Whether reading goes on because the application asked for the body; it pauses when a head is complete."""
        return self._is_head_complete and not self._is_message_complete and not self._is_deaf

    @property
    def _is_answering(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn's does
        """A peer connected; one too many is told so."""
        super().connection_made(transport)
        if limit_reading := getattr(transport, "set_read_buffer_limits", None):  # of TLS, which buffers by itself
            limit_reading(high=READ_BYTES)
        if len(self.connections) > self._limits.connections_max:
            self._write_problem(ErrorCode.OVERLOADED, f"{self._limits.connections_max} connections are open already")
            self._close_now()
            return
        self._start_head_clock()

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is gone."""
        self._stop_head_clock()
        self._stop_send_clock()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse what came, unless nothing that comes is of interest any more."""
        if self._is_deaf:
            return
        self._unset_keepalive_if_required()
        if not self._is_answering:
            self._start_head_clock()
        self._unused_bytes += len(data)
        try:
            self.parser.feed_data(data)
        except (
            httptools.HttpParserUpgrade
        ):  # no protocol but HTTP/1 is spoken: the request is answered, then all ends
            self._stop_after_answer()
        except httptools.HttpParserError as error:
            if not self._is_deaf:
                self._refuse(ErrorCode.MALFORMED_REQUEST, f"the request is not valid HTTP/1.1: {_reason(error)}")
        else:
            if self._unused_bytes > HEAD_BYTES_MAX and not self._is_deaf:
                self._refuse_head()

    def on_message_begin(self) -> None:
        """The first byte of a request; one ahead of the answer before it is not read."""
        if self._is_deaf:
            return
        if self._is_answering:  # sent ahead of the answer: to be sent again, as RFC 9112 (9.3.2) has it
            self._stop_after_answer()
            return
        super().on_message_begin()
        self._is_head_complete = self._is_message_complete = False
        self._head_bytes = 0

    def on_url(self, url: bytes) -> None:
        """Part of the request line."""
        self._head_bytes += len(url)
        if not self._is_deaf:
            super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header, or a trailer."""
        if self._is_deaf or self._is_head_complete:  # a trailer says nothing that we would use
            return
        self._head_bytes += len(name) + len(value) + len(": \r\n")
        super().on_header(name, value)
        if len(self.headers) > HEADERS_MAX:
            self._refuse_head()

    def on_headers_complete(self) -> None:
        """Hand the request to the application and read on when it asks for the body."""
        if self._is_deaf:
            return
        if self._head_bytes > HEAD_BYTES_MAX:
            self._refuse_head()
            return
        super().on_headers_complete()
        self.cycle.transport = cast("asyncio.Transport", _ClosingWithCare(self))
        self._is_head_complete = True
        self._unused_bytes = 0
        self._stop_head_clock()
        self.flow.pause_reading()  # until the application asks for the body, or has answered

    def on_body(self, body: bytes) -> None:
        """Part of the body."""
        self._unused_bytes = 0
        if not self._is_deaf:
            super().on_body(body)

    def on_message_complete(self) -> None:
        """The end of a request."""
        self._unused_bytes = 0
        if not self._is_deaf:
            self._is_message_complete = True
            super().on_message_complete()

    def on_response_complete(self) -> None:
        """Wait for the next request, or close where the body of this one is still to come."""
        if self._is_deaf or not self._is_message_complete:  # a body that nobody asked for may be endless
            self.server_state.total_requests += 1
            self.close()
            return
        super().on_response_complete()

    def pause_writing(self) -> None:
        """The peer does not take its answer: it has a while to begin."""
        super().pause_writing()
        if self._send_clock is None:
            self._send_clock = self.loop.call_later(self._limits.send_timeout_s, self.transport.abort)

    def resume_writing(self) -> None:
        """The peer took most of it."""
        super().resume_writing()
        if not self._is_closing:
            self._stop_send_clock()

    def close(self) -> None:
        """Close once all is written, and, where a body is still coming, once its sender had time to read the answer.

        To close a socket with unread bytes in it resets the connection, and then the answer may be lost.
        """
        if self._is_closing or self.transport.is_closing():
            return
        if self._is_message_complete:
            self._close_now()
            return
        self._is_deaf = self._is_closing = True
        self._stop_head_clock()
        self._unset_keepalive_if_required()
        if self.transport.can_write_eof():
            self.transport.write_eof()
        self.flow.resume_reading()
        self._head_clock = self.loop.call_later(LINGER_S, self._close_now)

    def timeout_keep_alive_handler(self) -> None:
        """It was idle for too long."""
        self._close_now()

    def shutdown(self) -> None:
        """The server ends: what is under way is finished first."""
        if self._is_answering:
            self.cycle.keep_alive = False
        else:
            self._close_now()

    def _close_now(self) -> None:
        self._is_deaf = self._is_closing = True
        self._stop_head_clock()
        self.transport.close()  # waits for its peer to take what is written
        if self._send_clock is None:
            self._send_clock = self.loop.call_later(self._limits.send_timeout_s, self.transport.abort)

    def _stop_after_answer(self) -> None:
        self._is_deaf = True
        if self._is_answering:
            self._is_message_complete = False  # there is more that nobody reads
            self.cycle.keep_alive = False
        else:
            self._close_now()

    def _refuse_head(self) -> None:
        self._refuse(
            ErrorCode.HEADERS_TOO_LARGE,
            f"allowed are {HEAD_BYTES_MAX} bytes of request line and headers, and {HEADERS_MAX} headers",
        )

    def _refuse(self, code: ErrorCode, detail: str) -> None:
        """Answer what never became a request, or broke off being one, and close."""
        if self._is_answering:
            if self._is_message_complete:  # what is wrong came after a whole request, which gets its own answer
                self._stop_after_answer()
                return
            self.cycle.disconnected = True  # whoever waits for the body is told that there is none
            self.cycle.message_event.set()
        if not (self._is_answering and self.cycle.response_started):
            self._write_problem(code, detail)
        self.close()

    def _write_problem(self, code: ErrorCode, detail: str) -> None:
        headers, body = render_problem(Refusal(code, detail), instance="", request_id=uuid.uuid4().hex)
        lines = [STATUS_LINE[ERROR_KINDS[code].status]]
        lines += [name + b": " + value + b"\r\n" for name, value in self.server_state.default_headers]
        lines += [f"{name.lower()}: {value}\r\n".encode("ascii") for name, value in headers.items()]
        lines += [f"content-length: {len(body)}\r\nconnection: close\r\n\r\n".encode("ascii"), body]
        self.transport.write(b"".join(lines))

    def _start_head_clock(self) -> None:
        if self._head_clock is None:
            self._head_clock = self.loop.call_later(self._limits.head_timeout_s, self._on_head_timeout)

    def _on_head_timeout(self) -> None:
        if self._unused_bytes:
            self._write_problem(
                ErrorCode.BODY_INCOMPLETE,
                f"the request's head did not arrive within {self._limits.head_timeout_s:g} seconds",
            )
        self._close_now()

    def _stop_head_clock(self) -> None:
        if self._head_clock is not None:
            self._head_clock.cancel()
            self._head_clock = None

    def _stop_send_clock(self) -> None:
        if self._send_clock is not None:
            self._send_clock.cancel()
            self._send_clock = None


def _reason(error: Exception) -> str:
    """What the parser says of it; of what failed in our own code on the way, no more than that it did."""
    return "its target cannot be read" if isinstance(error, httptools.HttpParserCallbackError) else str(error)
