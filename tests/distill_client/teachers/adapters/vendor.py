"""A local HTTP server that answers as a vendor's documentation says, and an adapter asked over real HTTP."""

import json
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import TypeAdapter

from distill_client.teachers.adapters.adapter import Adapter
from distill_client.teachers.adapters.kinds import AnyTeacherFile, make_adapter
from distill_client.teachers.protocol import Answer
from distill_client.teachers.transport import Transport

CLASSES = ["T-shirt/top", "Trouser", "Sandal", "Ankle boot"]
IMAGES = np.random.default_rng(0).integers(0, 256, (3, 5, 6, 3), np.uint8)
ROWS = np.array([[0.7, 0.2, 0.1, 0.0], [0.1, 0.2, 0.3, 0.4], [0.0, 0.0, 1.0, 0.0]])
HTML = b"<html><head><title>502 Bad Gateway</title></head></html>"


@dataclass(frozen=True)
class Asked:
    """What a vendor's server was sent; header names in lower case."""

    method: str
    path: str
    headers: Mapping[str, str]
    content: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.content)


@dataclass(frozen=True)
class Reply:
    """What it answers: JSON, or bytes as they are."""

    content: Any = b""
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)

    @property
    def raw(self) -> bytes:
        return self.content if isinstance(self.content, bytes) else json.dumps(self.content).encode()


@dataclass
class Vendor:
    """A server's address, what it was asked, and what it does; ``answer`` may be changed at any time."""

    url: str
    asked: list[Asked]
    answer: Callable[[Asked], Reply]

    def always(self, content: Any, status: int = 200, **headers: str) -> None:
        reply = Reply(content, status, {name.replace("_", "-"): value for name, value in headers.items()})
        self.answer = lambda _: reply


@contextmanager
def vendor() -> Iterator[Vendor]:
    """A vendor's server on a free port, until the end of the block."""
    found = Vendor("", [], lambda asked: Reply({"error": f"nothing at {asked.path}"}, 404))

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _answer(self) -> None:
            content = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            headers = {name.lower(): value for name, value in self.headers.items()}
            asked = Asked(self.command, self.path, headers, content)
            found.asked.append(asked)
            reply = found.answer(asked)
            self.send_response(reply.status)
            for name, value in {"Content-Type": "application/json", **reply.headers}.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(reply.raw)))
            self.end_headers()
            self.wfile.write(reply.raw)

        do_GET = do_POST = _answer  # noqa: N815 - the names that http.server calls

        def log_message(self, format: str, *args: Any) -> None:
            """Quiet."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    found.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield found
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def adapter_of(url: str, kind: str, **keys: Any) -> Adapter:
    """The adapter of a file with these keys, of four classes and images of 5x6x3."""
    content = {
        "kind": kind,
        "name": "theirs",
        "url": url,
        "classes": CLASSES,
        "image_size": "5x6x3",
        "max_queries": 100,
        "i_have_permission": True,
        **keys,
    }
    return make_adapter(TypeAdapter(AnyTeacherFile).validate_python(content))


def ask(adapter: Adapter, url: str, images_nhwc: NDArray[np.uint8] = IMAGES, *, looks: bool = True) -> Answer:
    """One look where there is one, and one call, over real HTTP; raises what the adapter does."""
    transport = Transport.to(url, headers={"Authorization": "Bearer secret"}, deadline_s=5)
    try:
        if looks and (request := adapter.first_look()) is not None:
            adapter.read_first_look(transport.send(request))
        return adapter.read(transport.send(adapter.request(images_nhwc, "key-1")), len(images_nhwc))
    finally:
        transport.close()
