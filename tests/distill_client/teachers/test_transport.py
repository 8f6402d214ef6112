"""Replies that would fill the memory, or never end."""

import gzip
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager

import pytest

from distill_client.errors import TeacherProtocolError
from distill_client.teachers import transport
from distill_client.teachers.manners.patience import Retryable
from distill_client.teachers.transport import HttpRequest, Transport

MIB = 2**20
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"


@contextmanager
def server(write: Callable[[socket.socket], None]) -> Iterator[str]:
    """A raw socket that takes one request and lets ``write`` answer it."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve() -> None:
            connection, _ = listening.accept()
            with connection:
                connection.recv(65536)
                try:
                    write(connection)
                except OSError:
                    return  # the client has hung up, as it should

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        thread.join(10)
        assert not thread.is_alive()


def sends(size: int) -> Callable[[socket.socket], None]:
    return lambda to: to.sendall(HEAD + b"Content-Length: %d\r\n\r\n" % size + b" " * size)


def get(url: str, deadline_s: float = 5.0) -> bytes:
    with closing(Transport.to(url, headers={}, deadline_s=deadline_s)) as connections:
        return connections.send(HttpRequest("GET", "")).content


def test_a_reply_up_to_the_bound_is_read_and_one_byte_more_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transport, "REPLY_BYTES_MAX", 3 * MIB)
    with server(sends(3 * MIB)) as url:
        assert len(get(url)) == 3 * MIB
    with server(sends(3 * MIB + 1)) as url, pytest.raises(TeacherProtocolError, match="more than 3 MiB") as refused:
        get(url)
    assert refused.value.charged == "unknown"


def test_an_endless_reply_is_not_read_to_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transport, "REPLY_BYTES_MAX", 3 * MIB)
    sent = 0

    def write(to: socket.socket) -> None:
        nonlocal sent
        to.sendall(HEAD + b"Transfer-Encoding: chunked\r\n\r\n")
        for _ in range(2000):
            to.sendall(b"100000\r\n" + b" " * MIB + b"\r\n")
            sent += MIB

    with server(write) as url, pytest.raises(TeacherProtocolError, match="more than 3 MiB"):
        get(url)
    assert 3 * MIB <= sent < 100 * MIB  # what lies in the system's buffers was sent too


def test_a_small_reply_that_unpacks_to_a_large_one_is_not_unpacked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transport, "REPLY_BYTES_MAX", 3 * MIB)
    packed = gzip.compress(bytes(64 * MIB))
    assert len(packed) < MIB
    head = HEAD + b"Content-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(packed)
    with server(lambda to: to.sendall(head + packed)) as url, pytest.raises(TeacherProtocolError, match="3 MiB"):
        get(url)


def test_a_reply_that_trickles_is_lost_after_the_timeout_and_may_be_charged() -> None:
    def write(to: socket.socket) -> None:
        to.sendall(HEAD + b"Content-Length: 1000\r\n\r\n")
        for _ in range(100):
            to.sendall(b" ")
            time.sleep(0.05)

    began = time.monotonic()
    with server(write) as url:
        with pytest.raises(Retryable, match=r"not complete 0\.5 s after its head") as lost:
            get(url, deadline_s=0.5)
        assert 0.4 < time.monotonic() - began < 3
    assert lost.value.charged == "unknown"
