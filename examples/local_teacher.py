"""A teacher server of one's own while something lasts, and our commands as anyone would type them.

What the demo and the benchmarks share: processes of the installed `teacher` and `distill`, nothing in process.
"""

import contextlib
import ctypes
import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO

BIN = Path(sys.executable).parent
STOP_TIMEOUT_S = 10
_PR_SET_PDEATHSIG = 1  # prctl(2)
_C_LIBRARY = ctypes.CDLL(None) if sys.platform == "linux" else None


class CommandFailed(Exception):
    """One of our commands ended with another exit code than 0; it has said why on its standard error."""

    def __init__(self, command: list[str], returncode: int) -> None:
        super().__init__(f"`{Path(command[0]).name} {' '.join(command[1:])}` ended with {returncode}")
        self.returncode = returncode


@contextlib.contextmanager
def serving(bundle: Path, ledger_url: str, log: Path) -> Iterator[str]:
    """A server process on a free port, whose address is given; stopped on leaving, its log kept.

    Raises CommandFailed when it does not start.
    """
    command = argv("teacher", "serve", "--bundle", bundle, "--ledger", ledger_url, "--port", 0, "--json")
    # Its own session, so that Ctrl-C reaches the client first and the server lives until it is stopped here.
    with (
        log.open("w") as stderr,
        _child(command, stdout=subprocess.PIPE, stderr=stderr, start_new_session=True) as server,
    ):
        line = server.stdout.readline() if server.stdout else ""
        if not line:
            sys.stderr.write(log.read_text())
            raise CommandFailed(command, server.wait(STOP_TIMEOUT_S))
        yield json.loads(line)["url"]


def issue_key(ledger_url: str, *, name: str, budget: int, disclosure: str) -> str:
    """A key of the ledger that may buy ``budget`` images; the secret that it is used by. Raises CommandFailed."""
    terms = ("--name", name, "--budget", budget, "--disclosure", disclosure)
    return str(run_json("teacher", "keys", "create", "--ledger", ledger_url, *terms, "--json")["key"])


def run(*words: object, env: dict[str, str] | None = None, out: IO[str] | int | None = None) -> None:
    """Run one of our commands; what it prints goes to ``out``, also its messages where that is a file.

    Raises CommandFailed.
    """
    command = argv(*words)
    to_file = None if out is None or isinstance(out, int) else out
    with _child(command, env=env, stdout=out, stderr=to_file) as process:
        returncode = process.wait()
    if returncode:
        raise CommandFailed(command, returncode)


def run_json(*words: object, env: dict[str, str] | None = None) -> dict[str, object]:
    """Run one of our commands with --json and read what it prints. Raises CommandFailed."""
    command = argv(*words)
    done = subprocess.run(command, env=env, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise CommandFailed(command, done.returncode)
    content: dict[str, object] = json.loads(done.stdout)
    return content


def argv(*words: object) -> list[str]:
    """`teacher ...` or `distill ...` of this environment, word by word."""
    program, *arguments = map(str, words)
    return [str(BIN / program), *arguments]


@contextlib.contextmanager
def _child(
    command: list[str],
    *,
    stdout: IO[str] | int | None,
    stderr: IO[str] | None,
    env: dict[str, str] | None = None,
    start_new_session: bool = False,
) -> Iterator[subprocess.Popen[str]]:
    """A process of ours while this lasts; stopped on leaving, and killed where that takes too long.

    Ctrl-C waits until it has started: Python runs callbacks around a fork and drops what is raised in them, this too.
    """
    held = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})

    def begin() -> None:
        _die_with_parent()
        signal.pthread_sigmask(signal.SIG_SETMASK, held)

    try:
        process = subprocess.Popen(
            command,
            env=env,
            stdout=stdout,
            stderr=stderr,
            text=True,
            start_new_session=start_new_session,
            preexec_fn=begin,  # noqa: PLW1509 - nobody starts threads here
        )
    except BaseException:
        signal.pthread_sigmask(signal.SIG_SETMASK, held)
        raise
    try:
        signal.pthread_sigmask(signal.SIG_SETMASK, held)
        yield process
    finally:
        _stop(process)


def _stop(process: subprocess.Popen[str]) -> None:
    """End a process that may have ended: politely, and after a while not."""
    process.terminate()
    try:
        process.wait(STOP_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    if process.stdout:
        process.stdout.close()


def _die_with_parent() -> None:
    """In a child: be killed when the process that started it is, whose work it does and whose locks it holds.

    Only Linux can; elsewhere such a child runs on.
    """
    if _C_LIBRARY is not None:
        _C_LIBRARY.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
