"""Programs that start in milliseconds and can be killed at any moment: forked by a process that has imported them.

See ``tests.reliability.fork_server``. All else about them is real: the command line, HTTP, the ledger, SIGKILL. All
tests of a pytest process share one that forks, so that torch and the rest are imported once for all of them.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ENVIRONMENT = {name: value for name, value in os.environ.items() if not name.startswith(("TEACHER_", "DISTILL_"))} | {
    "OMP_NUM_THREADS": "1"
}
PATIENCE_S = 90.0


class _ForkProcess:
    """The process that forks, and what is said to it."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.reliability.fork_server"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=ENVIRONMENT,
            start_new_session=True,  # Ctrl-C is for the tests; they close this one
        )
        self._lock = threading.Lock()

    def ask(self, command: dict[str, Any]) -> dict[str, Any]:
        """Its answer."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with self._lock:
            self._process.stdin.write(json.dumps(command).encode() + b"\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        assert line, "the process that forks is gone"
        answer: dict[str, Any] = json.loads(line)
        return answer

    def close(self) -> None:
        """End it, and with it whatever it started."""
        self._process.communicate(timeout=PATIENCE_S)


_shared: list[_ForkProcess] = []


def _fork_process() -> _ForkProcess:
    if not _shared:
        _shared.append(_ForkProcess())
    return _shared[0]


def close_forks() -> None:
    """End the process that forks, and what it left running."""
    while _shared:
        _shared.pop().close()


@dataclass(frozen=True)
class Done:
    """A program that has ended."""

    returncode: int
    stdout: str
    stderr: str


@dataclass(frozen=True)
class ForkServer:
    """Starts one program again and again. ``target``: MODULE:FUNCTION."""

    target: str

    def start(self, *arguments: object, log: Path, env: dict[str, str] | None = None) -> "Program":
        """Run the program; standard output is added to ``log`` with the suffix .out, the rest to ``log``."""
        command = {
            "target": self.target,
            "arguments": [str(argument) for argument in arguments],
            "env": ENVIRONMENT | (env or {}),
            "log": str(log),
            "out": str(log.with_suffix(".out")),
        }
        process = _fork_process()
        return Program(process.ask(command)["pid"], process)

    def run(self, *arguments: object, env: dict[str, str] | None = None, timeout_s: float = PATIENCE_S) -> "Done":
        """Run the program to its end."""
        with tempfile.TemporaryDirectory() as folder:
            log = Path(folder) / "log"
            code = self.start(*arguments, log=log, env=env).wait(timeout_s)
            return Done(code, log.with_suffix(".out").read_text(), log.read_text())


@dataclass
class Program:
    """A running program."""

    pid: int
    _forked_by: _ForkProcess = field(repr=False)
    _code: int | None = None

    def poll(self) -> int | None:
        """The exit code, negative for a signal; None while it runs."""
        if self._code is None:
            self._code = self._forked_by.ask({"poll": self.pid})["code"]
        return self._code

    def wait(self, timeout_s: float = PATIENCE_S) -> int:
        """The exit code once it has ended."""
        wait_until(lambda: self.poll() is not None, timeout_s=timeout_s, pause_s=0.002)
        assert self._code is not None
        return self._code

    def send(self, sign: int) -> None:
        """Send a signal, unless it has ended."""
        if self.poll() is None:
            os.kill(self.pid, sign)

    def kill(self) -> bool:
        """SIGKILL: no handler runs, nothing is flushed. Whether that is what ended it."""
        self.send(signal.SIGKILL)
        return self.wait() == -signal.SIGKILL


class Server:
    """`teacher serve` on one ledger and one port, to be killed and started again."""

    def __init__(self, forks: ForkServer, folder: Path, **env: str) -> None:
        """``env`` holds its settings, TEACHER_LEDGER at least."""
        self._forks = forks
        self._env = {"TEACHER_BUNDLES": "unused", **env}
        self.log = folder / "server.log"
        self.port = _free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.program: Program | None = None

    def start(self) -> None:
        """Start it and wait until it accepts connections; the answer may still take a moment."""
        program = self._forks.start("teacher", "serve", "--port", self.port, log=self.log, env=self._env)
        self.program = program
        wait_until(lambda: _is_open(self.port) or program.poll() is not None)
        assert program.poll() is None, self.log.read_text()

    def kill(self) -> bool:
        """SIGKILL; whether that is what ended it."""
        assert self.program is not None
        return self.program.kill()

    def stop(self) -> None:
        """As its owner would stop it."""
        if self.program is not None:
            self.program.send(signal.SIGTERM)
            self.program.wait()

    def requests_in_flight(self) -> int:
        """Connections that clients have open to it now; each of theirs carries one request at a time."""
        assert self.program is not None
        established, mine = "01", f":{self.port:04X}"
        rows = [line.split() for line in Path(f"/proc/{self.program.pid}/net/tcp").read_text().splitlines()[1:]]
        return sum(row[1].endswith(mine) and row[3] == established for row in rows)

    def text(self) -> str:
        """All it has logged so far."""
        return self.log.read_text() if self.log.exists() else ""


def wait_until(reached: Callable[[], bool], *, timeout_s: float = PATIENCE_S, pause_s: float = 0.005) -> None:
    """Poll until something is so; fails when that takes too long."""
    deadline = time.monotonic() + timeout_s
    while not reached():
        assert time.monotonic() < deadline, f"not reached within {timeout_s} s"
        time.sleep(pause_s)


def _is_open(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port
