"""Mistakes at the command line: one line on standard error, and an exit code of their own."""

import os
import shutil
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from distill_client.cli import KEY_VARIABLE
from tests.distill_client.cli.support import Finished, Served, exit_of_main, write_config

PROGRAM = Path(sys.executable).parent / "distill"


class Quiet(BaseHTTPRequestHandler):
    """Has a method for nothing, so that it answers everything with an HTML page; as 404."""

    def send_response(self, code: int, message: str | None = None) -> None:
        super().send_response(404, message)

    def log_message(self, format: str, *args: object) -> None: ...


@pytest.fixture
def web_site() -> Iterator[str]:
    """The address of something that is no teacher: every page is missing, in HTML."""
    with HTTPServer(("127.0.0.1", 0), Quiet) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_exit_codes_and_one_line_on_standard_error(
    served: Served,
    finished: Finished,
    web_site: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    config = write_config(tmp_path / "tiny.toml")
    at_nobody = write_config(tmp_path / "nobody.toml", teacher={"name": "nobody"})
    hurried = write_config(tmp_path / "hurried.toml", teacher={"deadline_s": 0.05})
    at_odd_name = write_config(tmp_path / "odd.toml", teacher={"name": "../docs?"})
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "run.json").write_text("{}")  # pydantic's own message has many lines
    edited = tmp_path / "edited"
    shutil.copytree(finished.path, edited)
    with closing(sqlite3.connect(edited / "answers.sqlite")) as store, store:
        store.execute("UPDATE answers SET event_hash = ? WHERE batch = 1", ("0" * 64,))
    monkeypatch.setenv(KEY_VARIABLE, finished.secret)
    for code, message, words in (
        (2, "cannot be read", ("plan", tmp_path / "missing.toml")),
        (2, "budget_images", ("plan", write_config(tmp_path / "poor.toml", budget_images=99))),
        (2, "device is 'tpu'", ("run", config, "--teacher", served.url, "--out", tmp_path / "x", "--device", "tpu")),
        (2, "neither an address", ("plan", config, "--teacher", "nowhere")),
        (3, "teacher_not_found", ("plan", at_nobody, "--teacher", served.url)),
        (3, "not_found", ("plan", at_odd_name, "--teacher", served.url)),
        (4, "no answer from 127.0.0.1:9 ", ("plan", hurried, "--teacher", "http://127.0.0.1:9")),
        (5, "is this a teacher's address?", ("plan", config, "--teacher", web_site)),
        (6, "not a run folder", ("resume", tmp_path / "missing")),
        (6, "not a run folder", ("audit", broken)),
        (7, "event hash is 0000", ("audit", edited)),
    ):
        assert exit_of_main(monkeypatch, *words) == code, words
        captured = capsys.readouterr()
        *before, last = captured.err.splitlines()
        assert last.startswith("distill: "), captured.err
        assert message in last
        assert all("asking again" in line for line in before)
        assert "Traceback" not in captured.err


def test_a_key_that_is_not_there_or_not_known_names_the_variable(
    served: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    config = write_config(tmp_path / "tiny.toml")
    for key, code in (("", 2), ("tk-nonsense", 3)):
        monkeypatch.setenv(KEY_VARIABLE, key)
        assert exit_of_main(monkeypatch, "plan", config, "--teacher", served.url) == code
        assert KEY_VARIABLE in capsys.readouterr().err


def test_a_disk_that_refuses_is_one_line_too(
    finished: Finished, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    picture = finished.path / "report.png"
    kept = picture.read_bytes()
    picture.unlink()
    picture.mkdir()  # a file cannot take its place
    try:
        assert exit_of_main(monkeypatch, "evaluate", finished.path) == 6
    finally:
        picture.rmdir()
        picture.write_bytes(kept)
        (finished.path / "report.png.tmp").unlink(missing_ok=True)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("distill: ")
    assert "report.png" in line


@pytest.mark.parametrize(
    ("words", "code"),
    [(["plan", "missing.toml"], 2), (["audit", "missing"], 6), (["frobnicate"], 2), (["--help"], 0)],
)
def test_the_installed_program(tmp_path: Path, words: list[str], code: int) -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [str(PROGRAM), *words], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == code
    assert "Traceback" not in done.stderr
    if words[0] in ("plan", "audit"):
        assert done.stdout == ""
        assert len(done.stderr.splitlines()) == 1
