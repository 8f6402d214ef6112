"""Who keeps the server waiting: with a head, a body, an answer not taken, or nothing at all; while others pay."""

import random
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import ExitStack
from pathlib import Path

import httpx2
import pytest

from shared.wire.images import encode_npy
from tests.reliability.processes import wait_until
from tests.teacher_server.security.conftest import Serve, Served
from tests.teacher_server.security.sockets import connected, head, hear, labels_head, open_sockets, talk
from tests.teacher_server.support import numbered_images

IDLE = 1000


def trickle(connection: socket.socket, data: bytes, *, pause_s: float) -> None:
    """A byte at a time until the other side has enough."""
    try:
        for byte in data:
            connection.sendall(bytes([byte]))
            time.sleep(pause_s)
    except OSError:
        pass


def in_background(target: object, *arguments: object, **named: object) -> None:
    threading.Thread(target=target, args=arguments, kwargs=named, daemon=True).start()  # type: ignore[arg-type]


def test_heads_that_do_not_end_are_given_up(serve: Serve) -> None:
    served = serve(TEACHER_HEAD_TIMEOUT_S="1")
    whole = head("GET", "/healthz", "X: " + "x" * 1000)
    with ExitStack() as stack:
        stalled, trickling, blank, silent = (stack.enter_context(connected(served.port)) for _ in range(4))
        stalled.sendall(whole[:100])
        in_background(trickle, trickling, whole, pause_s=0.05)
        in_background(trickle, blank, b"\r\n" * 500, pause_s=0.05)
        for connection in (stalled, trickling, blank):
            heard = hear(connection)
            assert "within 1 seconds" in heard.problem(408, "body_incomplete")["detail"]
            assert heard.seconds < 3
        heard = hear(silent)
        assert (heard.raw, heard.seconds < 3) == (b"", True)


def test_a_connection_that_was_used_may_be_idle_as_long(serve: Serve) -> None:
    served = serve(TEACHER_HEAD_TIMEOUT_S="1")
    with connected(served.port) as connection:
        connection.sendall(head("GET", "/healthz"))
        heard = hear(connection)
        assert (heard.status, heard.answers) == (200, 1)
        assert 0.5 < heard.seconds < 3
    with connected(served.port) as connection:  # it is idle again and again, never for a second
        for _ in range(4):
            connection.sendall(head("GET", "/healthz"))
            time.sleep(0.5)
        assert hear(connection).answers == 4


@pytest.mark.parametrize("kind", ["stalled", "trickling", "chunked"])
def test_uploads_that_do_not_end_are_given_up_and_their_place_is_free_again(serve: Serve, kind: str) -> None:
    served = serve(TEACHER_BODY_TIMEOUT_S="1", TEACHER_REQUESTS_IN_FLIGHT_MAX="1")
    body = encode_npy(numbered_images(range(100)))
    with connected(served.port) as slow, served.client() as client:
        if kind == "chunked":
            slow.sendall(labels_head("Transfer-Encoding: chunked", secret=served.secret))
            in_background(trickle, slow, b"1\r\nx\r\n" * 500, pause_s=0.01)
        else:
            slow.sendall(labels_head(secret=served.secret, length=len(body)))
            if kind == "trickling":
                in_background(trickle, slow, body, pause_s=0.01)
        time.sleep(0.3)  # the place is taken by now
        assert served.buy(client, 1).status_code == 503
        heard = hear(slow)
        assert "within 1 seconds" in heard.problem(408, "body_incomplete")["detail"]
        assert heard.seconds < 3
        assert served.buy(client, 2).status_code == 200
        assert served.spent() == 1


def test_who_goes_away_in_the_middle_gives_up_the_place(serve: Serve) -> None:
    served = serve(TEACHER_REQUESTS_IN_FLIGHT_MAX="1")
    with served.client() as client:
        for _ in range(3):
            with connected(served.port) as gone:
                gone.sendall(labels_head(secret=served.secret, length=1000) + b"x" * 10)
            wait_until(lambda: served.buy(client, 1).status_code == 200, timeout_s=5)


@pytest.mark.parametrize("path", ["/openapi.json", "/static-offline-docs/swagger-ui-bundle.js"])
def test_answers_that_nobody_takes_are_given_up(serve: Serve, path: str) -> None:
    served = serve(TEACHER_BODY_TIMEOUT_S="1", TEACHER_HEAD_TIMEOUT_S="1")
    assert served.spent() == 0
    wait_until(lambda: open_sockets(served.pid) < 10)
    with ExitStack() as stack:
        for _ in range(20):
            taker = stack.enter_context(socket.socket())
            taker.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1024)
            taker.connect(("127.0.0.1", served.port))
            taker.sendall(head("GET", path))
        wait_until(lambda: open_sockets(served.pid) >= 20)
        wait_until(lambda: open_sockets(served.pid) < 10, timeout_s=10)


def test_a_thousand_idle_connections_beside_one_who_pays(serve: Serve) -> None:
    """Half of them never sent a byte, half have made one request; all are closed when they were idle too long."""
    served = serve(TEACHER_HEAD_TIMEOUT_S="8")
    with ExitStack() as stack:
        idle = [stack.enter_context(connected(served.port)) for _ in range(IDLE)]
        for connection in idle[::2]:
            connection.sendall(head("GET", "/healthz"))
        for connection in idle[::2]:
            heard = b""
            while not heard.endswith(b'{"status":"ok"}'):
                heard += connection.recv(1000)
        began = time.monotonic()
        with served.client() as client:
            slowest = max(_seconds_of_a_purchase(served, client, number) for number in range(100))
        assert open_sockets(served.pid) > IDLE, f"still held after {time.monotonic() - began:.1f} s"
        assert served.spent() == 100
        assert slowest < 1
        for connection in idle:
            assert connection.recv(1000) == b"", "closed in silence: it did nothing wrong"
        assert time.monotonic() - began < 20
    wait_until(lambda: open_sockets(served.pid) < 100, timeout_s=5)


def _seconds_of_a_purchase(served: Served, client: httpx2.Client, number: int) -> float:
    began = time.monotonic()
    assert served.buy(client, number).status_code == 200
    return time.monotonic() - began


def test_more_connections_than_allowed_are_told_so(serve: Serve) -> None:
    served = serve(TEACHER_CONNECTIONS_MAX="5", TEACHER_HEAD_TIMEOUT_S="1")
    with ExitStack() as stack:
        held = [stack.enter_context(connected(served.port)) for _ in range(5)]
        for connection in held:
            connection.sendall(b"G")
        heard = talk(served.port, b"")
        assert heard.problem(503, "overloaded")["retryable"] is True
        assert heard.headers["retry-after"] == "1"
        for connection in held:
            hear(connection)
    assert served.spent() == 0, "and then there is room again"


def test_a_waiting_stranger_does_not_keep_the_server_from_ending(serve: Serve) -> None:
    served = serve(TEACHER_BODY_TIMEOUT_S="1")
    with connected(served.port) as idle, connected(served.port) as half, connected(served.port) as slow:
        idle.sendall(head("GET", "/healthz"))
        half.sendall(b"GET /heal")
        slow.sendall(labels_head(secret=served.secret, length=1000))
        assert idle.recv(1000)
        began = time.monotonic()
        served.server.stop()
        assert time.monotonic() - began < 5
    served.server.start()


def test_sigterm_at_any_moment_ends_a_server_and_leaves_nothing_behind(serve: Serve) -> None:
    served = serve()
    state_file = Path(f"{served.place.signing_key}".removesuffix(".signing-key.pem") + ".server.json")
    draw = random.Random(5)
    for _ in range(12):
        assert served.server.program is not None
        served.server.program.send(signal.SIGTERM)
        assert served.server.program.wait(10) == -signal.SIGTERM
        assert not state_file.exists()
        served.server.start()
        time.sleep(draw.random() * 0.2)


@pytest.mark.parametrize(("soft", "hard", "room"), [(300, 8192, 4096), (5000, 8192, 4096), (300, 1024, 768)])
def test_there_is_never_room_for_more_connections_than_open_files(soft: int, hard: int, room: int) -> None:
    """The system's limit is raised as far as it goes; a process of its own, as it cannot be raised again."""
    program = f"""
import resource
from teacher_server.cli.listening import FILES_BESIDE_CONNECTIONS, _require_files
resource.setrlimit(resource.RLIMIT_NOFILE, ({soft}, {hard}))
assert _require_files(4096) == {room}
assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] >= {room} + FILES_BESIDE_CONNECTIONS
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)
