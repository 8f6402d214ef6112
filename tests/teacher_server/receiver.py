"""A real HTTP server that owners might have their alerts posted to; it may be rude."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

SECRET_PATH = "/hooks/T0P-S3CR3T"


@dataclass(frozen=True)
class Message:
    """One request as it came."""

    headers: dict[str, str]
    body: bytes

    @property
    def data(self) -> dict[str, Any]:
        content: dict[str, Any] = json.loads(self.body)["data"]
        return content


@dataclass
class Receiver:
    """``statuses`` are answered one after another, then 204 for ever; an answer may take ``pause_s``."""

    statuses: list[int] = field(default_factory=list)
    pause_s: float = 0.0
    messages: list[Message] = field(default_factory=list)
    taken: list[Message] = field(default_factory=list)
    port: int = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}{SECRET_PATH}?token=s3cr3t"

    def wait_for(self, count: int, *, timeout_s: float = 30.0) -> list[Message]:
        """The messages that were taken, once they are so many."""
        wait_until(lambda: len(self.taken) >= count, timeout_s=timeout_s)
        return self.taken


def wait_until(reached: Callable[[], bool], *, timeout_s: float = 30.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not reached():
        assert time.monotonic() < deadline, f"not reached within {timeout_s} s"
        time.sleep(0.01)


@contextmanager
def receiving(*statuses: int, pause_s: float = 0.0, port: int = 0) -> Iterator[Receiver]:
    """Run one for as long as the block."""
    receiver = Receiver(list(statuses), pause_s)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            message = Message(dict(self.headers.items()), body)
            receiver.messages.append(message)
            began = time.monotonic()
            while time.monotonic() - began < receiver.pause_s:  # which may be shortened meanwhile
                time.sleep(0.01)
            status = receiver.statuses.pop(0) if receiver.statuses else 204
            if status < 300:
                receiver.taken.append(message)
            self.send_response(status)
            self.send_header("Content-Length", "0")
            self.send_header("Location", "/elsewhere")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", port), Handler) as server:
        receiver.port = server.server_address[1]
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield receiver
        finally:
            server.shutdown()
            thread.join()
