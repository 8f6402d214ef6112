"""Talking to a server byte by byte, as a stranger may, and what its process holds in memory."""

import json
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PATIENCE_S = 30.0
LABELS = "/v1/teachers/numbers/labels"


@dataclass(frozen=True)
class Heard:
    """All that came until the server closed the connection, and after how long (seconds) that was."""

    raw: bytes
    seconds: float

    @property
    def status(self) -> int:
        return int(self.raw.split(b" ", 2)[1]) if self.raw else 0

    @property
    def answers(self) -> int:
        return self.raw.count(b"HTTP/1.1 ")

    @property
    def headers(self) -> dict[str, str]:
        lines = self.raw.partition(b"\r\n\r\n")[0].decode("ascii").split("\r\n")[1:]
        return {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}

    @property
    def body(self) -> bytes:
        return self.raw.partition(b"\r\n\r\n")[2]

    def problem(self, status: int, code: str) -> dict[str, Any]:
        """The problem document, and that it is one."""
        assert self.status == status, self.raw[:500]
        assert self.headers["content-type"] == "application/problem+json"
        assert int(self.headers["content-length"]) == len(self.body)
        assert self.headers["connection"] == "close"
        found: dict[str, Any] = json.loads(self.body)
        assert (found["code"], found["status"]) == (code, status)
        assert self.headers["request-id"] == found["request_id"]
        return found


def head(method: str, path: str, *lines: str) -> bytes:
    """A request's head."""
    return "\r\n".join([f"{method} {path} HTTP/1.1", "Host: teacher", *lines, "", ""]).encode("latin-1")


def labels_head(*lines: str, secret: str | None = None, length: int | None = None) -> bytes:
    """The head of a label request with an array."""
    found = ["Content-Type: application/x-npy", *lines]
    found += [f"Authorization: Bearer {secret}"] if secret else []
    found += [f"Content-Length: {length}"] if length is not None else []
    return head("POST", LABELS, *found)


@contextmanager
def connected(port: int) -> Iterator[socket.socket]:
    """A connection, closed at the end."""
    with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_S) as connection:
        yield connection


def send_as_much_as_is_taken(connection: socket.socket, data: bytes) -> int:
    """Send until all is sent or the other side does not want more; returns the bytes that went."""
    sent = 0
    try:
        while sent < len(data):
            sent += connection.send(data[sent : sent + 2**16])
    except OSError:
        pass
    return sent


def hear(connection: socket.socket) -> Heard:
    """Read until the server closes the connection."""
    began, parts = time.monotonic(), []
    try:
        while part := connection.recv(2**16):
            parts.append(part)
    except ConnectionResetError:
        pass
    return Heard(b"".join(parts), time.monotonic() - began)


def talk(port: int, data: bytes) -> Heard:
    """Send ``data`` and read until the server closes the connection."""
    with connected(port) as connection:
        send_as_much_as_is_taken(connection, data)
        return hear(connection)


def resident_kib(pid: int) -> int:
    """What the process has in memory."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1])
    raise AssertionError("no VmRSS")


def open_sockets(pid: int) -> int:
    """How many sockets the process has open: the one it listens on, and connections."""
    found = 0
    for link in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(FileNotFoundError):
            found += str(link.readlink()).startswith("socket:")
    return found
