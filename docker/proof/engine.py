"""`docker` and `docker compose` as functions, and the attached `docker compose up` that a user would type."""

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

PROJECT = Path(__file__).resolve().parents[2]


class Failed(Exception):
    """A fact does not hold, or a command that must work did not."""


def fact(text: str) -> None:
    """One line of what was found."""
    print(f"compose-test: {text}", flush=True)


def require(holds: bool, text: str, up: "Up | None" = None) -> None:
    """Print the fact if it holds. Raises Failed, with the end of what `up` printed, if it does not."""
    if not holds:
        raise Failed(text + (f"\n{up.tail()}" if up else ""))
    fact(text)


def wait_until(attempt: Callable[[], object], timeout_s: float) -> None:
    """Repeat an attempt until it does not raise Failed. Raises its last Failed after ``timeout_s``."""
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            attempt()
            return
        except Failed:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.5)


def run(*command: str, stdin: str | None = None, timeout_s: float = 120) -> str:
    """Run a command in the project and return its stdout. Raises Failed with its stderr."""
    try:
        done = subprocess.run(
            command, cwd=PROJECT, input=stdin, capture_output=True, text=True, check=False, timeout=timeout_s
        )
    except subprocess.TimeoutExpired as error:
        raise Failed(f"{' '.join(command)}: not done after {timeout_s:.0f} s") from error
    if done.returncode:
        raise Failed(f"{' '.join(command)}: exit code {done.returncode}: {(done.stderr or done.stdout)[-3000:]}")
    return done.stdout


def docker(*arguments: str, stdin: str | None = None, timeout_s: float = 120) -> str:
    """`docker ARGUMENTS`, its stdout without the last newline."""
    return run("docker", *arguments, stdin=stdin, timeout_s=timeout_s).strip()


class Stack:
    """One compose project: its own name, volumes and networks."""

    def __init__(self, name: str, settings: dict[str, str], files: tuple[str, ...] = ()) -> None:
        self.name = name
        self.settings = settings
        chosen = [part for file in files for part in ("-f", file)]
        self.command = ["docker", "compose", "--ansi", "never", "--project-name", name, *chosen]

    def compose(self, *arguments: str, stdin: str | None = None, timeout_s: float = 120) -> str:
        """`docker compose ARGUMENTS` for this project, its stdout without the last newline."""
        settings = [f"{name}={value}" for name, value in self.settings.items()]
        return run("env", *settings, *self.command, *arguments, stdin=stdin, timeout_s=timeout_s).strip()

    def in_client(self, *command: str, stdin: str | None = None) -> str:
        """Run a command in a container that is confined as the client is, and return its stdout."""
        return self.compose("run", "--rm", "--no-deps", "-T", "client", *command, stdin=stdin)

    def start_teacher(self) -> None:
        """Start the teacher with what it depends on, and wait until it is healthy."""
        self.compose("up", "--detach", "--wait", "teacher", timeout_s=180)

    def container(self, service: str) -> str:
        """The id of a service's container, running or not; empty where there is none."""
        return self.compose("ps", "--all", "--quiet", service)

    def state(self, service: str) -> dict[str, Any]:
        """What the engine says of a service's container; empty where there is none."""
        container = self.container(service)
        return json.loads(docker("inspect", "--format", "{{json .State}}", container)) if container else {}

    def spent(self) -> int:
        """What the ledger itself says was spent, over all keys."""
        report: dict[str, list[dict[str, int]]] = json.loads(
            self.compose("exec", "-T", "teacher", "teacher", "keys", "list", "--json")
        )
        return sum(key["spent"] for key in report["keys"])

    def remove(self) -> None:
        """Take containers, networks and volumes away."""
        self.compose("down", "--volumes", "--remove-orphans", "--timeout", "5")


class Up:
    """`docker compose up` in the foreground of its own session; leaving it is Ctrl-C."""

    def __init__(self, stack: Stack, log: Path) -> None:
        self.stack, self.log = stack, log
        self.started_before = stack.state("client").get("StartedAt")
        with log.open("w") as output:
            self.process = subprocess.Popen(
                [*stack.command, "up"],
                cwd=PROJECT,
                env={**os.environ, **stack.settings},
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def __enter__(self) -> "Up":
        return self

    def client_state(self) -> dict[str, Any]:
        """The client's state in this `up`; empty before it has started. Raises Failed when `up` has ended early."""
        state = self.stack.state("client")
        if self.process.poll() is not None and state.get("Status") != "exited":
            raise Failed(f"`docker compose up` ended with {self.process.returncode}:\n{self.tail()}")
        fresh = state.get("Status") in ("running", "exited") and state["StartedAt"] != self.started_before
        return state if fresh else {}

    def wait_for_client(self, timeout_s: float) -> int:
        """Wait until the client has ended; its exit code."""
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            state = self.client_state()
            if state.get("Status") == "exited":
                return int(state["ExitCode"])
            time.sleep(1)
        raise Failed(f"the client has not ended after {timeout_s:.0f} s:\n{self.tail()}")

    def tail(self) -> str:
        """The end of what `up` has printed."""
        return self.log.read_text(errors="replace")[-4000:]

    def stop(self) -> None:
        """Ctrl-C, and wait until everything has stopped."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
        try:
            self.process.wait(60)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
