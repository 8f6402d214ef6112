"""What strangers send: answered or dropped at once, kept nowhere, and never mistaken for something else."""

import socket
import time
from contextlib import ExitStack

import pytest

from shared.wire.images import encode_npy
from tests.teacher_server.security.conftest import Serve, Served
from tests.teacher_server.security.sockets import (
    LABELS,
    connected,
    head,
    hear,
    labels_head,
    resident_kib,
    talk,
)
from tests.teacher_server.support import numbered_images

UNKNOWN = "tk-000000000000-" + "A" * 43
MUCH = 20_000_000
STRANGERS_AT_ONCE = 50
BOUND_KIB = 32 * STRANGERS_AT_ONCE


def chunked(secret: str | None, *parts: bytes) -> bytes:
    return labels_head("Transfer-Encoding: chunked", secret=secret) + b"".join(parts)


def test_nothing_that_strangers_send_is_kept(serve: Serve) -> None:
    """Each kind of flood from fifty connections at once, 20 MB each; the process does not grow by 32 KiB for each."""
    served = serve(TEACHER_HEAD_TIMEOUT_S="60")
    floods = {
        "body without a key": labels_head(length=MUCH) + b"x" * MUCH,
        "body with a wrong key": labels_head(secret=UNKNOWN, length=MUCH) + b"x" * MUCH,
        "chunked body": chunked(None, b"1000000\r\n", b"x" * 0x1000000),
        "head": head("GET", "/healthz")[:-2] + b"X: " + b"x" * MUCH,
        "headers": head("GET", "/healthz")[:-2] + b"X: yyyyyyyyyyyyy\r\n" * (MUCH // 18),
        "address": b"GET /" + b"x" * MUCH,
        "method": b"G" * MUCH,
        "empty lines": b"\r\n" * (MUCH // 2),
        "requests without waiting": head("GET", "/healthz") * (MUCH // 40),
        "body of a request that has none": head("GET", "/healthz", f"Content-Length: {MUCH}") + b"x" * MUCH,
        "body to nowhere": head("POST", "/nowhere", f"Content-Length: {MUCH}") + b"x" * MUCH,
        "body of what takes none": head("POST", "/healthz", f"Content-Length: {MUCH}") + b"x" * MUCH,
        "trailers": chunked(None, b"1\r\nx\r\n0\r\n", b"X: yyyyyyyyyyyyy\r\n" * (MUCH // 18)),
    }
    for _ in range(2):  # what a server has only once, such as its threads, it has from now on
        flooded(served, labels_head(secret=UNKNOWN), seconds=1.0)
    growth_kib = {name: flooded(served, flood) for name, flood in floods.items()}
    for name in [name for name, grown in growth_kib.items() if grown >= BOUND_KIB]:
        growth_kib[name] = flooded(served, floods[name])  # what was had once only is not had again
    worst = max(growth_kib, key=growth_kib.__getitem__)
    told = (
        f"{STRANGERS_AT_ONCE} strangers, {len(floods)} ways: at most {growth_kib[worst]} KiB together, by {worst!r}"
    )
    print(told)  # noqa: T201 - the README's figure, shown by -rP
    assert growth_kib[worst] < BOUND_KIB, growth_kib
    assert served.spent() == 0


def flooded(served: Served, flood: bytes, *, seconds: float = 0.7) -> int:
    """By how many KiB the process was larger at the worst moment, while all strangers sent all they could."""
    before = peak = resident_kib(served.pid)
    with ExitStack() as stack:
        strangers = [stack.enter_context(connected(served.port)) for _ in range(STRANGERS_AT_ONCE)]
        sent = dict.fromkeys(strangers, 0)
        for stranger in strangers:
            stranger.setblocking(False)
        end = time.monotonic() + seconds
        while sent and time.monotonic() < end:
            for stranger, at in list(sent.items()):
                try:
                    sent[stranger] += stranger.send(flood[at : at + 2**18]) if at < len(flood) else 0
                except BlockingIOError:
                    continue
                except OSError:  # the server has closed it
                    del sent[stranger]
            peak = max(peak, resident_kib(served.pid))
    return peak - before


def test_strangers_who_wait_with_a_head_cost_a_few_kib_each(serve: Serve) -> None:
    served = serve(TEACHER_HEAD_TIMEOUT_S="60")
    talk(served.port, head("GET", "/healthz", "Connection: close"))
    before = resident_kib(served.pid)
    with ExitStack() as stack:
        for _ in range(200):
            stranger = stack.enter_context(connected(served.port))
            stranger.sendall(head("POST", LABELS)[:-2] + b"X: " + b"x" * 15_000)
        assert hear_health(served.port) == 200
        assert resident_kib(served.pid) - before < 200 * 64


def hear_health(port: int) -> int:
    return talk(port, head("GET", "/healthz", "Connection: close")).status


@pytest.mark.parametrize("secret", [None, UNKNOWN])
def test_the_answer_comes_before_the_body_is_asked_for(serve: Serve, secret: str | None) -> None:
    served = serve()
    heard = talk(served.port, labels_head("Expect: 100-continue", secret=secret, length=MUCH))
    heard.problem(401, "unauthenticated")
    assert b"100 Continue" not in heard.raw
    # and it can be read however much was sent by then
    heard = talk(served.port, labels_head(secret=secret, length=MUCH) + b"x" * MUCH)
    heard.problem(401, "unauthenticated")


def test_who_pays_is_asked_for_the_body(serve: Serve) -> None:
    served = serve()
    body = encode_npy(numbered_images([7]))
    with connected(served.port) as paying:
        paying.sendall(
            labels_head("Expect: 100-continue", "Connection: close", secret=served.secret, length=len(body))
        )
        assert paying.recv(1000) == b"HTTP/1.1 100 Continue\r\n\r\n"
        paying.sendall(body)
        assert hear(paying).status == 200
    assert served.spent() == 1


@pytest.mark.parametrize(
    ("sent", "status", "code"),
    [
        (head("GET", "/healthz", "Content-Length: abc"), 400, "malformed_request"),
        (head("POST", LABELS, "Content-Length: -1"), 400, "malformed_request"),
        (head("POST", LABELS, "Content-Length: 4", "Content-Length: 5"), 400, "malformed_request"),
        (head("POST", LABELS, "Content-Length: 4", "Transfer-Encoding: chunked"), 400, "malformed_request"),
        (head("POST", LABELS, "Content-Length: 9" + "9" * 40), 400, "malformed_request"),
        (head("GET", "/healthz", "no colon"), 400, "malformed_request"),
        (head("GET", "/healthz", "X: a\x00b"), 400, "malformed_request"),
        (head("GET", "/healthz", "X : a"), 400, "malformed_request"),
        (b"GET /healthz HTTP/9.9\r\n\r\n", 400, "malformed_request"),
        (b"GET /\xc3\xa9 HTTP/1.1\r\nHost: x\r\n\r\n", 400, "malformed_request"),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"a" * 500, 400, "malformed_request"),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400, "malformed_request"),
        (head("CONNECT", "teacher:80"), 400, "malformed_request"),
        (head("GET", "/healthz", "X: " + "x" * 17_000), 431, "headers_too_large"),
        (head("GET", "/healthz", *["X: y"] * 101), 431, "headers_too_large"),
        (head("GET", "/" + "x" * 17_000), 431, "headers_too_large"),
    ],
)
def test_what_is_not_http_is_told_so_in_a_problem_document(serve: Serve, sent: bytes, status: int, code: str) -> None:
    served = serve()
    heard = talk(served.port, sent)
    heard.problem(status, code)
    assert heard.answers == 1
    assert heard.seconds < 5


def test_heads_up_to_the_bound_are_read(serve: Serve) -> None:
    served = serve()
    room = 2**14 - len(head("GET", "/healthz", "Connection: close")) - 30
    for lines in (["X: " + "x" * room], ["X: y"] * 98):
        assert talk(served.port, head("GET", "/healthz", "Connection: close", *lines)).status == 200


@pytest.mark.parametrize("step", [1, 7, 4096])
def test_a_request_in_pieces_is_the_same_request(serve: Serve, step: int) -> None:
    served = serve()
    body = encode_npy(numbered_images([7, 8]))
    data = labels_head("Connection: close", secret=served.secret, length=len(body)) + body
    with connected(served.port) as paying:
        paying.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for start in range(0, len(data), step):
            paying.sendall(data[start : start + step])
        assert hear(paying).status == 200
    assert served.spent() == 2


def test_a_broken_body_is_charged_nothing(serve: Serve) -> None:
    served = serve()
    body = encode_npy(numbered_images([7]))
    begun = [f"{len(body):x}\r\n".encode(), body, b"\r\n"]
    heard = talk(served.port, chunked(served.secret, *begun, b"ZZ\r\n"))
    heard.problem(400, "malformed_request")
    heard = talk(served.port, chunked(served.secret, *begun, b"0\r\nX: ", b"y" * 500_000))
    heard.problem(431, "headers_too_large")
    heard = talk(served.port, chunked(served.secret, *begun, b"0\r\n", b"X: y\r\n" * 100_000, b"\r\n"))
    heard.problem(431, "headers_too_large")
    with connected(served.port) as paying:
        paying.sendall(chunked(served.secret, *begun))
    assert served.spent() == 0


def test_trailers_and_chunk_extensions_are_not_taken_for_headers(serve: Serve) -> None:
    served = serve()
    body = encode_npy(numbered_images([7]))
    sent = chunked(None, f"{len(body):x};name=value\r\n".encode(), body, b"\r\n0\r\n")
    heard = talk(served.port, sent + f"Authorization: Bearer {served.secret}\r\n\r\n".encode())
    heard.problem(401, "unauthenticated")
    sent = labels_head("Transfer-Encoding: chunked", "Connection: close", secret=served.secret)
    sent += f"{len(body):x};name=value\r\n".encode() + body + b"\r\n0\r\nX: y\r\n\r\n"
    assert talk(served.port, sent).status == 200
    assert served.spent() == 1


def test_requests_ahead_of_their_answers_are_not_read(serve: Serve) -> None:
    """The second of two purchases sent at once is not begun: its sender sees that, and asks again."""
    served = serve()
    body = encode_npy(numbered_images([7]))
    one = labels_head(secret=served.secret, length=len(body)) + body
    heard = talk(served.port, one + one)
    assert (heard.status, heard.answers) == (200, 1)
    assert heard.headers["connection"] == "close"
    heard = talk(served.port, one + b"nonsense\r\n\r\n")
    assert (heard.status, heard.answers) == (200, 1)
    assert served.spent() == 2


def test_a_body_that_an_answer_did_not_wait_for_is_not_the_next_request(serve: Serve) -> None:
    """What looks like a request inside an unread body is not one."""
    served = serve()
    inner = labels_head(secret=served.secret, length=0)
    for path in ("/nowhere", "/healthz"):
        heard = talk(served.port, head("POST", path, f"Content-Length: {len(inner)}") + inner)
        assert heard.answers == 1
        assert heard.status in (404, 405)


@pytest.mark.parametrize("wish", ["websocket", "h2c"])
def test_other_protocols_are_not_spoken(serve: Serve, wish: str) -> None:
    served = serve()
    heard = talk(served.port, head("GET", "/healthz", "Connection: Upgrade", f"Upgrade: {wish}") + b"x" * 100)
    assert (heard.status, heard.answers) == (200, 1)
