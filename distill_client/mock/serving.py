"""The mock as an HTTP server: reads images, draws what goes wrong, charges, and answers or does not."""

import json
import select
import socket
import time
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from distill_client.mock.answering import Answers
from distill_client.mock.counting import Counts
from distill_client.mock.faults import Faults
from distill_client.mock.shapes import Reply, Request, Shape, Unreadable
from shared.wire.images import image_digests

COUNTS_PATH = "/mock/counts"
_BODY_BYTES_MAX = 1 << 28
_HOLD_S = 3600.0
_GARBAGE = b"<html><body>It works!</body></html>"


@dataclass(frozen=True)
class Mock:
    """One mock teacher: what it speaks, what it answers, what goes wrong, and its count."""

    shape: Shape
    answers: Answers
    faults: Faults
    counts: Counts
    slow_s: float = 1.0
    retry_after_s: int | None = None


class MockServer(ThreadingHTTPServer):
    """Serves one ``Mock``; a thread for each connection."""

    daemon_threads = True
    request_queue_size = 256

    def __init__(self, address: tuple[str, int], mock: Mock) -> None:
        """Raises OSError when the address cannot be had."""
        self.mock = mock
        super().__init__(address, _Handler)

    @property
    def url(self) -> str:
        """Where it is."""
        host, port = self.server_address[:2]
        return f"http://{host!s}:{port}"


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: MockServer

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        if path == COUNTS_PATH:
            self._send(Reply.of(self.server.mock.counts.as_json()))
        elif (reply := self.server.mock.shape.look(path)) is not None:
            self._send(reply)
        else:
            self._send(self.server.mock.shape.refuse(404, f"there is nothing at {path}"))

    def do_POST(self) -> None:
        shape, path = self.server.mock.shape, self.path.partition("?")[0]
        length = self.headers.get("Content-Length", "")
        if not length.isdecimal() or int(length) > _BODY_BYTES_MAX:
            self.close_connection = True
            self._send(shape.refuse(411, "a Content-Length is needed, of at most 256 MiB"))
            return
        headers = {name.lower(): value for name, value in self.headers.items()}
        request = Request(path, headers, self.rfile.read(int(length)))
        if not shape.takes(path):
            self._send(shape.refuse(404, f"there is nothing at {path}"))
            return
        try:
            self._answer(request)
        except Unreadable as error:
            self._send(shape.refuse(400, str(error)))

    def _answer(self, request: Request) -> None:
        mock = self.server.mock
        images_nhwc = mock.shape.read(request)
        number = mock.counts.next_request()
        if fault := mock.faults.draw(number):
            mock.counts.befell(fault)
        if fault in ("throttle", "overload"):
            self._send(self._refusal(429 if fault == "throttle" else 503))
            return
        if fault == "timeouts-before-charge":
            self._hold()
            return
        digests = image_digests(images_nhwc)
        failed = mock.faults.draw_places(number, len(digests)) if fault == "partial" else []
        paid = [digest for place, digest in enumerate(digests) if place not in failed]
        mock.counts.charge(paid, request.headers.get("idempotency-key", ""))
        if fault == "timeouts-after-charge":
            self._hold()
            return
        if fault == "slow":
            time.sleep(mock.slow_s)
        reply = mock.shape.render(request, mock.answers(images_nhwc), failed)
        if fault == "garbage":
            reply = Reply(_GARBAGE, 200, {"Content-Type": "text/html"})
        self._send(reply, is_cut=fault == "cut")
        if fault not in ("garbage", "cut"):
            mock.counts.answered(paid)

    def _refusal(self, status: int) -> Reply:
        mock = self.server.mock
        reply = mock.shape.refuse(status, "too many requests" if status == 429 else "no capacity now")
        if mock.retry_after_s is None:
            return reply
        return Reply(reply.content, reply.status, {**reply.headers, "Retry-After": str(mock.retry_after_s)})

    def _send(self, reply: Reply, *, is_cut: bool = False) -> None:
        content = reply.content
        try:
            self.send_response(reply.status)
            for name, value in reply.headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content[: len(content) // 2] if is_cut else content)
        except OSError:  # whoever asked is gone
            is_cut = True
        if is_cut:
            self.close_connection = True

    def _hold(self) -> None:
        """Say nothing until the client has gone."""
        self.close_connection = True
        deadline = time.monotonic() + _HOLD_S
        while time.monotonic() < deadline:
            readable, _, _ = select.select([self.connection], [], [], 1.0)
            try:
                if readable and not self.connection.recv(1, socket.MSG_PEEK):
                    return
            except OSError:
                return
            if readable:  # it has sent more, and waits
                time.sleep(0.1)

    def log_message(self, format: str, *arguments: object) -> None:
        """Nothing: the counts tell what came."""


def teacher_toml(mock: Mock, url: str) -> str:
    """A teacher's file that describes the mock to the client."""
    height, width, channels = mock.shape.mocked.image_hwc
    keys = mock.shape.teacher_keys(url)
    disclosed = "" if "answers = " in keys else 'answers = "probabilities"\n'
    honours = str(mock.counts.honours_idempotency).lower()
    return (
        f'name = "mock"\nclasses = {json.dumps(mock.shape.mocked.classes, ensure_ascii=False)}\n'
        f'image_size = "{height}x{width}x{channels}"\n{disclosed}max_queries = 1000\nprice_per_image = 0.001\n'
        f"timeout_s = 5\nhonours_idempotency = {honours}\ni_have_permission = true\n{keys}"
    )
