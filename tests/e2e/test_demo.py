"""`make demo` on a small setting: real server, real HTTP, three equal counts; and its server never outlives it.

To its end it runs in this process, its commands forked; to the moment when it is stopped, just as `make demo` does.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from examples import demo as demo_program
from tests.e2e.forked_commands import forked_key, forked_run, forked_server
from tests.e2e.processes import ENVIRONMENT, PROJECT, run_json

DEMO = [sys.executable, str(PROJECT / "examples" / "demo.py")]


def arguments(config: Path, bundle: Path, runs: Path) -> list[str]:
    return [*DEMO, "--config", str(config), "--bundle", str(bundle), "--runs", str(runs)]


def test_demo_prints_one_table_with_three_equal_counts(
    digits_bundle: Path,
    small_config: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    doubles = {"run": forked_run, "run_json": run_json, "serving": forked_server, "issue_key": forked_key}
    for name, double in doubles.items():
        monkeypatch.setattr(demo_program, name, double)
    handler = signal.getsignal(signal.SIGTERM)
    try:
        demo_program.main(config=small_config, bundle=digits_bundle, runs=tmp_path)
    finally:
        signal.signal(signal.SIGTERM, handler)
    printed = capsys.readouterr().out
    summary = json.loads((tmp_path / "demo" / "summary.json").read_text())
    images = summary["images"]
    assert images["planned"] == images["bought"] == images["charged_by_server"] == images["in_audit_log"] == 140
    assert summary["agreement_on"] == "the owner's answers on the test set"
    assert summary["agreement_images"] == summary["test_images"]
    accuracies = [summary["teacher_accuracy"], summary["student_accuracy"], *summary["baselines"].values()]
    assert all(0 <= accuracy <= 1 for accuracy in accuracies)
    for row in ("charged by the server", "counted by the client", "in the audit log", "all rows agree"):
        assert row in printed
    assert (tmp_path / "demo" / "report.png").read_bytes().startswith(b"\x89PNG")


def test_ctrl_c_stops_the_server_too(digits_bundle: Path, small_config: Path, tmp_path: Path) -> None:
    # A process group of its own, because Ctrl-C reaches every process of the terminal's foreground group.
    with subprocess.Popen(
        arguments(small_config, digits_bundle, tmp_path),
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    ) as demo:
        try:
            assert demo.stdout is not None
            address = demo.stdout.readline().partition("http://")[2].partition(";")[0]
            host, port = address.rsplit(":", 1)
            socket.create_connection((host, int(port)), timeout=10).close()
            # The plan and the key are commands that have ended by then, and the demo has read what they said.
            assert any("the client buys its answers" in line for line in demo.stdout)
            os.killpg(demo.pid, signal.SIGINT)
            assert demo.wait(60) == 130
        finally:
            demo.kill()
    deadline = time.monotonic() + 10
    while True:
        try:
            socket.create_connection((host, int(port)), timeout=1).close()
        except OSError:
            break
        assert time.monotonic() < deadline, "the server still listens"
        time.sleep(0.1)


def test_ctrl_c_while_a_command_starts_is_not_lost() -> None:
    # What a callback around a fork raises is dropped, so that a Ctrl-C there let the demo run to its end.
    words = (
        "import os, signal\n"
        "from examples.local_teacher import run\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "os.register_at_fork(before=lambda: signal.raise_signal(signal.SIGINT))\n"
        "run('distill', '--help')\n"
        "print('ran on')\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", words], cwd=PROJECT, env=ENVIRONMENT, capture_output=True, text=True, check=False
    )
    assert ended.returncode == -signal.SIGINT, ended.stderr
    assert "ran on" not in ended.stdout
