"""What ``examples.local_teacher`` starts, forked instead: the same commands and a real server, there at once."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from examples.local_teacher import CommandFailed
from tests.e2e.processes import ServerProcess, run, run_json


def forked_run(*words: object, env: dict[str, str] | None = None, out: IO[str] | int | None = None) -> None:
    """Run a command; what it prints is printed here, unless ``out`` is ``subprocess.DEVNULL``."""
    done = run(*words, env=env)
    sys.stderr.write(done.stderr)
    if out != subprocess.DEVNULL:
        sys.stdout.write(done.stdout)
    if done.returncode:
        raise CommandFailed([str(word) for word in words], done.returncode)


@contextmanager
def forked_server(bundle: Path, ledger_url: str, log: Path) -> Iterator[str]:
    """A server while this lasts; its address."""
    server = ServerProcess(bundle, Path(ledger_url.removeprefix("sqlite:///")), log)
    server.start()
    try:
        yield server.url
    finally:
        server.stop()


def forked_key(ledger_url: str, *, name: str, budget: int, disclosure: str) -> str:
    """A new key's secret."""
    terms = ("--name", name, "--budget", budget, "--disclosure", disclosure)
    return str(run_json("teacher", "keys", "create", "--ledger", ledger_url, *terms, "--json")["key"])
