"""Secrets stay where they belong: in no log, no error, no list of processes, no file that others can read."""

import base64
import re
import socket
import threading
import time
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from teacher_server.ledger.databases.address import parse_ledger_url
from tests.ledger_places import sqlite_place
from tests.reliability.processes import ForkServer, wait_until
from tests.teacher_server.security.conftest import Serve
from tests.teacher_server.security.sockets import LABELS, head, talk

PASSWORD = "hunter2-correct-horse"
URLS_WITH_A_PASSWORD = [
    f"postgresql://ada:{PASSWORD}@127.0.0.1:1/ledger",
    f"postgresql+psycopg://ada:{PASSWORD}@127.0.0.1:1/ledger?connect_timeout=1",
    f"postgres://ada:{PASSWORD}@127.0.0.1:1/ledger",
    f"postgresql://ada@127.0.0.1:1/ledger?password={PASSWORD}",
    f"postgresql://ada@127.0.0.1:1/ledger?sslkey=x&sslpassword={PASSWORD}",
    f"postgresql://ada:{PASSWORD}@127.0.0.1:port/ledger",
    f"postgresql://ada:{PASSWORD}@127.0.0.1:1",
    f"postgresql:/ada:{PASSWORD}@127.0.0.1:1/ledger",
    f"mysql://ada:{PASSWORD}@127.0.0.1/ledger",
]
COMMANDS: list[tuple[str, ...]] = [
    ("keys", "list"),
    ("keys", "create", "--name", "x", "--budget", "1"),
    ("ledger", "init"),
    ("ledger", "migrate"),
    ("serve", "--bundle", "x", "--port", "0"),
    ("reload",),
]


def told_by(forks: ForkServer, folder: Path, *words: str, env: dict[str, str] | None = None) -> tuple[int, str]:
    """A command's exit code and all that it printed."""
    log = folder / "told"
    for file in (log, log.with_suffix(".out")):
        file.unlink(missing_ok=True)
    code = forks.start("teacher", *words, log=log, env=env).wait()
    return code, log.read_text() + log.with_suffix(".out").read_text()


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("postgresql://ada@h/ledger?host=/run/x", "postgresql://ada@h/ledger?host=/run/x"),
        ("postgres://ada@h/ledger", "postgres://ada@h/ledger"),
        (f"postgresql://ada:{PASSWORD}@h:1/ledger", "postgresql://ada:***@h:1/ledger"),
        (f"postgresql+psycopg://ada:{PASSWORD}@h/ledger", "postgresql+psycopg://ada:***@h/ledger"),
        (f"postgresql://ada@h/ledger?password={PASSWORD}", "postgresql://ada@h/ledger?password=***"),
    ],
)
def test_an_url_is_shown_as_it_was_written_but_for_its_password(url: str, shown: str) -> None:
    assert parse_ledger_url(url).shown == shown


@pytest.mark.parametrize("words", COMMANDS, ids=lambda words: " ".join(words[:2]))
def test_a_password_in_a_flag_is_refused_with_the_way_out(
    teacher_forks: ForkServer, tmp_path: Path, words: tuple[str, ...]
) -> None:
    for url in (*URLS_WITH_A_PASSWORD[:5], URLS_WITH_A_PASSWORD[5]):
        code, told = told_by(teacher_forks, tmp_path, *words, "--ledger", url)
        assert code == 2
        assert PASSWORD not in told
        assert told.count("\n") == 1
        for way_out in ("TEACHER_LEDGER", "PGPASSWORD", "~/.pgpass"):
            assert way_out in told


@pytest.mark.parametrize("words", COMMANDS, ids=lambda words: " ".join(words[:2]))
def test_a_password_in_the_environment_is_printed_by_no_command(
    teacher_forks: ForkServer, tmp_path: Path, words: tuple[str, ...]
) -> None:
    for url in URLS_WITH_A_PASSWORD:
        env = {"TEACHER_LEDGER": url, "TEACHER_SIGNING_KEY": str(tmp_path / "key.pem")}
        code, told = told_by(teacher_forks, tmp_path, *words, env=env)
        assert code != 0
        assert PASSWORD not in told
        assert "Traceback" not in told


def test_a_mistake_in_one_setting_shows_no_other(teacher_forks: ForkServer, tmp_path: Path) -> None:
    env = {"TEACHER_LEDGER": URLS_WITH_A_PASSWORD[0], "TEACHER_BUNDLES": "x"}
    for mistake in (
        {"TEACHER_PORT": "x"},
        {"TEACHER_TLS_KEY": "x"},
        {"TEACHER_TRUSTED_PROXIES": "*"},
        {"TEACHER_X": "1"},
    ):
        code, told = told_by(teacher_forks, tmp_path, "serve", env=env | mistake)
        assert code == 2
        assert PASSWORD not in told


def test_a_ledger_without_a_password_may_be_a_flag(teacher_forks: ForkServer, tmp_path: Path) -> None:
    (tmp_path / "a:b@c").mkdir()
    for file in ("l.db", "a:b@c/l.db"):
        code, told = told_by(teacher_forks, tmp_path, "ledger", "init", "--ledger", f"sqlite:///{tmp_path / file}")
        assert code == 0, told
    for url in ("postgresql://ada@127.0.0.1:1/ledger", "postgresql://127.0.0.1:1/ledger?user=ada&connect_timeout=1"):
        code, told = told_by(teacher_forks, tmp_path, "keys", "list", "--ledger", url)
        assert code == 2
        assert "cannot be opened" in told


def test_a_whole_session_shows_no_secret(serve: Serve, teacher_forks: ForkServer, tmp_path: Path) -> None:
    """Commands, purchases, refusals and nonsense; then everything that was printed or answered is searched."""
    served = serve()
    stranger = "tk-0123456789ab-" + "B" * 43
    secrets = [served.secret, served.secret.rpartition("-")[2][:20], stranger]
    code, told = told_by(
        teacher_forks, tmp_path, "keys", "create", "--name", "bob", "--budget", "5", env=served.place.env
    )
    bob = re.search(r"tk-[0-9a-f]{12}-[A-Za-z0-9_-]{43}", told)
    assert code == 0
    assert bob, "the secret is shown once, to whoever made it"
    secrets.append(bob[0])
    signing_key = served.place.signing_key.read_text().splitlines()[1]
    secrets.append(signing_key)
    heard = []
    with served.client() as client:
        for numbers in ([1], [2, 3], [7] * 2000):
            heard.append(served.buy(client, *numbers).text)
        heard.append(client.get("/v1/usage").text)
        heard.append(client.get("/v1/events").text)
    for secret in (*secrets[:3], served.secret + "x", served.secret[:-1]):
        carried = [f"Authorization: Bearer {secret}", f"Cookie: {secret}", f"X-Api-Key: {secret}"]
        for lines in ([carried[0]], carried, [*carried, "Content-Length: abc"], [*carried, "Content-Type: x"]):
            for path in (LABELS, "/v1/usage", "/v1/events?after=x", "/nowhere"):
                heard.append(talk(served.port, head("POST", path, *lines, "Connection: close")).raw.decode())
        # in an address or an idempotency key it goes back to whoever sent it, but into no log
        talk(served.port, head("POST", f"/v1/teachers/{secret}/labels", carried[0], "Connection: close"))
        talk(served.port, head("POST", LABELS, carried[0], f"Idempotency-Key: {secret} x", "Connection: close"))
    log = served.server.text()
    for words in (
        ("keys", "list"),
        ("keys", "list", "--json"),
        ("keys", "revoke", "--name", "bob"),
        ("ledger", "migrate"),
    ):
        code, told = told_by(teacher_forks, tmp_path, *words, env=served.place.env)
        assert code == 0, told
        heard.append(told)
    for secret in secrets:
        assert secret not in log
        assert not any(secret in text for text in heard)
        assert not any(secret in line for line in command_lines())
    assert served.place.signing_key.stat().st_mode & 0o777 == 0o600


def test_the_log_of_a_broken_ledger_shows_no_key(serve: Serve) -> None:
    served = serve(TEACHER_LEDGER_TIMEOUT_S="0.1")
    file = Path(served.place.url.removeprefix("sqlite:///"))
    aside = file.with_name("aside.db")
    file.rename(aside)
    with served.client() as client:
        assert served.buy(client, 1).status_code == 503
    aside.rename(file)
    wait_until(lambda: "ledger unavailable" in served.server.text())
    assert served.secret not in served.server.text()
    served.server.log.write_text("")  # that it was logged as an error is what was wanted here


def test_a_client_takes_its_key_from_the_environment_only() -> None:
    from typer.main import get_command

    from distill_client.cli import app

    command = get_command(app)
    flags = {
        flag
        for sub in getattr(command, "commands").values()  # noqa: B009 - a group, whose class typer keeps to itself
        for parameter in sub.params
        for flag in parameter.opts
    }
    assert not [flag for flag in flags if re.search(r"api|secret|token|password|bearer", flag)]


def command_lines() -> list[str]:
    """Of every process of this machine, as anybody can list them."""
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdecimal():
            with suppress(OSError):
                found.append((folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace"))
    return found


def test_a_taken_port_is_a_message(teacher_forks: ForkServer, tmp_path: Path) -> None:
    place = sqlite_place(tmp_path)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        code, told = told_by(teacher_forks, tmp_path, "serve", "--bundle", "x", "--port", port, env=place.env)
    assert code == 2
    assert "cannot listen" in told


class _Taker(BaseHTTPRequestHandler):
    """A webhook's other end."""

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.end_headers()
        assert isinstance(self.server, _Webhook)
        self.server.taken += 1

    def log_message(self, format: str, *args: object) -> None:
        pass


class _Webhook(ThreadingHTTPServer):
    taken = 0


def test_a_webhook_s_address_and_secret_are_in_no_log(serve: Serve) -> None:
    """Whoever knows the address may post to it, so it is a secret as much as the key that signs."""
    signing = "whsec_" + base64.b64encode(b"correct-horse-battery-staple-xyz").decode()
    with _Webhook(("127.0.0.1", 0), _Taker) as webhook:
        threading.Thread(target=webhook.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{webhook.server_port}/services/{PASSWORD}"
        served = serve(TEACHER_ALERT_WEBHOOK=address, TEACHER_ALERT_WEBHOOK_SECRET=signing)
        with served.client() as client:
            assert served.buy(client, *range(600)).status_code == 200
        wait_until(lambda: webhook.taken > 0)
        webhook.shutdown()
    with served.client() as client:  # nobody listens there any more
        assert served.buy(client, *range(600, 990)).status_code == 200
    time.sleep(1.5)
    assert "50 %" in served.server.text()
    for secret in (PASSWORD, address, signing, signing[6:]):
        assert secret not in served.server.text()


@pytest.mark.parametrize("name", ["TEACHER_ALERT_WEBHOOK", "TEACHER_ALERT_WEBHOOK_SECRET"])
def test_a_bad_webhook_is_not_repeated(teacher_forks: ForkServer, tmp_path: Path, name: str) -> None:
    env = sqlite_place(tmp_path).env | {"TEACHER_BUNDLES": "x"}
    for value in (f"ftp://x/{PASSWORD}", f"https://{PASSWORD}:{PASSWORD}@[/", f"whsec_{PASSWORD}!", PASSWORD):
        code, told = told_by(teacher_forks, tmp_path, "serve", env=env | {name: value})
        assert code == 2
        assert PASSWORD not in told
        assert name.removeprefix("TEACHER_").lower() in told
