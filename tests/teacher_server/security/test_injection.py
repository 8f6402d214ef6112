"""SQL, headers and paths through every string that somebody else may choose, on both databases."""

import json
import urllib.parse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from shared.wire.images import encode_npy
from tests.ledger_places import LedgerPlace
from tests.reliability.processes import ForkServer, Server, wait_until
from tests.teacher_server.security.conftest import Served
from tests.teacher_server.security.schemathesis_hooks import picture
from tests.teacher_server.security.sockets import LABELS, Heard, head, talk
from tests.teacher_server.security.test_secrets import told_by
from tests.teacher_server.support import numbered_images, require_sound

SQL = [
    "' OR '1'='1",
    "x'; DROP TABLE keys; --",
    "x'); DELETE FROM events; --",
    '" OR ""="',
    "x' UNION SELECT secret_sha256 FROM keys --",
    "\\'; DROP TABLE keys; --",
    "$$; DROP TABLE keys; $$",
    ":name",
    "%(name)s",
    "?",
    "%s%n%x",
    "{0.__class__}",
    "1; ATTACH DATABASE '/tmp/x' AS x",
    "pg_sleep(30)",
]
HEADERS = ["a\r\nX-Injected: 1", "a\nX-Injected: 1", "a\r\n\r\n<script>", "a\rX-Injected: 1", "a\x00b", "a\x0bb"]
OTHERS = [
    "../../etc/passwd",
    "é",
    "🦆",
    "\x7f",
    "\ud800",
    "a" * 3000,
    " ",
    ".",
    "/",
    "//",
    "a/b",
    "1/labels",
    "#",
    "?x=y",
]
ALL = SQL + HEADERS + OTHERS


@pytest.fixture
def served(place: LedgerPlace, teacher_forks: ForkServer, tmp_path: Path) -> Iterator[Served]:
    secret = place.new_secret("ada", budget=1000)
    server = Server(teacher_forks, tmp_path, **place.env)
    server.start()
    wait_until(lambda: "serving" in server.log.with_suffix(".out").read_text())
    yield Served(server, place, secret)
    assert server.program is not None
    assert server.program.poll() is None
    server.stop()
    assert "Traceback" not in server.text()


def encoded(text: str) -> str:
    return urllib.parse.quote(text, safe="", errors="surrogatepass")


def whole(served: Served, *, spent: int) -> None:
    """Every table is there, every key's chain is sound, and nothing was charged that was not bought."""
    with served.place.open() as database:
        require_sound(database)
    assert served.spent() == spent


def harmless(heard: Heard) -> dict[str, Any]:
    """An answer or a refusal as any other, with no header that the server did not mean to send."""
    assert heard.answers == 1, heard.raw[:300]
    assert heard.status < 500, heard.raw
    assert not [name for name in heard.headers if "inject" in name or name == "set-cookie"], heard.raw
    if "location" in heard.headers:
        return {}
    found: dict[str, Any] = json.loads(heard.body)
    assert heard.status == 200 or found["status"] == heard.status
    return found


def test_names_versions_and_parameters(served: Served) -> None:
    auth = f"Authorization: Bearer {served.secret}"
    body = encode_npy(numbered_images([1]))
    lines = (auth, "Content-Type: application/x-npy", f"Content-Length: {len(body)}", "Connection: close")
    for text in ALL:
        name = encoded(text)
        for path in (f"/v1/teachers/{name}", f"/v1/teachers/{name}/", f"/v1/teachers/numbers/versions/{name}"):
            harmless(talk(served.port, head("GET", path, auth, "Connection: close")))
        for path in (f"/v1/teachers/{name}/labels", f"/v1/teachers/numbers/versions/{name}/labels"):
            found = harmless(talk(served.port, head("POST", path, *lines) + body))
            assert found.get("code") in ("teacher_not_found", "not_found", "method_not_allowed"), found
        for query in (f"after={name}", f"limit={name}", f"after=1&limit=1&x={name}", f"{name}=1"):
            harmless(talk(served.port, head("GET", f"/v1/events?{query}", auth, "Connection: close")))
    whole(served, spent=0)


def test_keys_idempotency_keys_and_other_headers(served: Served) -> None:
    body = encode_npy(numbered_images([1]))
    bought = 0
    for text in [*SQL, *OTHERS, "a\tb"]:
        value = text.encode("utf-8", "surrogatepass").decode("latin-1")
        for name in (
            "Idempotency-Key",
            "Accept",
            "Content-Type",
            "Authorization",
            "Content-Encoding",
            "Host",
            "Cookie",
        ):
            given = {
                "Host": "teacher",
                "Authorization": f"Bearer {served.secret}",
                "Content-Type": "application/x-npy",
                "Content-Length": str(len(body)),
                "Connection": "close",
            } | {name: f"Bearer {value}" if name == "Authorization" else value}
            lines = "".join(f"{key}: {content}\r\n" for key, content in given.items())
            heard = talk(served.port, f"POST {LABELS} HTTP/1.1\r\n{lines}\r\n".encode("latin-1") + body)
            harmless(heard)
            bought += heard.status == 200
            if name == "Authorization":
                assert heard.status in (400, 401)
    assert bought > len(SQL), "Host and Cookie are nobody's business"
    whole(served, spent=bought)
    for text in SQL[1:4]:  # one that is allowed is kept as it is, and found again
        key = text.replace(" ", "_")
        twice = [_buy_under(served, key, body) for _ in range(2)]
        assert [answer.headers["idempotency-key"] for answer in twice] == [key, key]
        assert [answer.headers["idempotency-replayed"] for answer in twice] == ["false", "true"]
        bought += 1
    whole(served, spent=bought)


def _buy_under(served: Served, key: str, body: bytes) -> Heard:
    lines = (f"Authorization: Bearer {served.secret}", f"Idempotency-Key: {key}", "Content-Type: application/x-npy")
    return talk(served.port, head("POST", LABELS, *lines, f"Content-Length: {len(body)}", "Connection: close") + body)


def test_file_names_and_form_fields(served: Served) -> None:
    bought = 0
    content = picture(7, kind="PNG")
    for text in ALL:
        raw = text.encode("utf-8", "surrogatepass")
        for disposition in (
            b'name="images"; filename="%b"' % raw,
            b"name=\"images\"; filename*=utf-8''%b" % encoded(text).encode(),
            b'name="%b"; filename="a.png"' % raw,
            b'name="images"; filename="a.png"\r\nContent-Type: %b' % raw,
        ):
            body = b"--b\r\nContent-Disposition: form-data; " + disposition + b"\r\n\r\n" + content + b"\r\n--b--\r\n"
            lines = (f"Authorization: Bearer {served.secret}", "Content-Type: multipart/form-data; boundary=b")
            sent = head("POST", LABELS, *lines, f"Content-Length: {len(body)}", "Connection: close") + body
            heard = talk(served.port, sent)
            harmless(heard)
            bought += heard.status == 200
    assert bought
    whole(served, spent=bought)


@pytest.mark.parametrize(
    "words", [("create", "--budget", "1"), ("grant", "1"), ("revoke",)], ids=lambda words: words[0]
)
def test_names_on_the_command_line(
    place: LedgerPlace, teacher_forks: ForkServer, tmp_path: Path, words: tuple[str, ...]
) -> None:
    place.new_secret("ada", budget=5)
    for text in [*SQL[:6], "a\nb", "é", "\udcff", "../x", "a" * 65, "", " ", "-x", "ada "]:
        code, told = told_by(teacher_forks, tmp_path, "keys", words[0], *words[1:], "--name", text, env=place.env)
        assert code == 2, (text, told)
        assert "Traceback" not in told
    for flag in ("--disclosure", "--expires") if words[0] == "create" else ():
        for text in SQL[:5]:
            made = ("keys", "create", "--name", "bob", "--budget", "1", flag, text)
            code, told = told_by(teacher_forks, tmp_path, *made, env=place.env)
            assert code == 2, (text, told)
            assert told.count("\n") == 1
    code, told = told_by(teacher_forks, tmp_path, "keys", "list", "--json", env=place.env)
    assert [key["name"] for key in json.loads(told[told.index("{") :])["keys"]] == ["ada"]
    with place.open() as database:
        require_sound(database)
