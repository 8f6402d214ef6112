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
    with log.open("w") as stderr:
        # Its own session, so that Ctrl-C reaches the client first and the server lives until it is stopped below.
        server = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
            start_new_session=True,
            preexec_fn=_die_with_parent,  # noqa: PLW1509 - nobody starts threads here
        )
    try:
        line = server.stdout.readline() if server.stdout else ""
        if not line:
            sys.stderr.write(log.read_text())
            raise CommandFailed(command, server.wait(STOP_TIMEOUT_S))
        yield json.loads(line)["url"]
    finally:
        server.terminate()
        try:
            server.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()
        if server.stdout:
            server.stdout.close()


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
    done = subprocess.run(
        command,
        env=env,
        stdout=out,
        stderr=to_file,
        check=False,
        preexec_fn=_die_with_parent,
    )
    if done.returncode:
        raise CommandFailed(command, done.returncode)


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


def _die_with_parent() -> None:
    """In a child: be killed when the process that started it is, whose work it does and whose locks it holds.

    Only Linux can; elsewhere such a child runs on.
    """
    if _C_LIBRARY is not None:
        _C_LIBRARY.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
