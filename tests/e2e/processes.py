"""Our commands as real processes, and a server that can be killed and started again.

Most are forked by a process that has imported torch once, see ``tests.reliability.fork_server``: they start at once.
"""

import json
import os
import signal
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

from tests.reliability.processes import ForkServer, Program, wait_until

PROJECT = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent
# One thread each: the machine is shared by a server, a client and whatever else tests run.
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


def command(*words: object) -> list[str]:
    program, *arguments = map(str, words)
    return [str(BIN / program), *arguments]


_TARGETS = {
    "teacher": "tests.e2e.teacher_program:main",
    "distill": "tests.reliability.distill_program:main",
}
_forks: dict[str, ForkServer] = {}


def start(*words: object, log: Path, env: dict[str, str] | None = None) -> Program:
    """Start `teacher ...` or `distill ...`; standard output goes to ``log`` with the suffix .out, the rest to it."""
    program = str(words[0])
    if program not in _forks:
        _forks[program] = ForkServer(_TARGETS[program])
    return _forks[program].start(*words, log=log, env=env or ENVIRONMENT)


def close_forks() -> None:
    """End the processes that fork, and what they left running."""
    while _forks:
        _forks.popitem()[1].close()


@dataclass(frozen=True)
class Done:
    """A command that has ended."""

    returncode: int
    stdout: str
    stderr: str


def run(*words: object, env: dict[str, str] | None = None, timeout_s: float = 120) -> Done:
    """Run a command to its end."""
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "log"
        code = start(*words, log=log, env=env).wait(timeout_s)
        return Done(code, log.with_suffix(".out").read_text(), log.read_text())


def run_json(*words: object, env: dict[str, str] | None = None) -> dict[str, object]:
    done = run(*words, env=env)
    assert done.returncode == 0, done.stderr
    content: dict[str, object] = json.loads(done.stdout)
    return content


@dataclass
class ServerProcess:
    """`teacher serve` as a process that can be killed and started again on the same port and ledger."""

    bundle: Path
    ledger: Path
    log: Path
    port: int = 0
    url: str = ""
    process: Program | None = field(default=None, repr=False)

    @property
    def ledger_url(self) -> str:
        return f"sqlite:///{self.ledger}"

    def start(self) -> None:
        where = ("--bundle", self.bundle, "--ledger", self.ledger_url, "--port", self.port)
        said = self.log.with_suffix(".out")
        said.write_text("")  # what an earlier start said
        self.process = process = start("teacher", "serve", *where, "--json", log=self.log)
        wait_until(lambda: said.read_text().endswith("\n") or process.poll() is not None)
        assert said.read_text(), self.log.read_text()
        self.url = json.loads(said.read_text())["url"]
        self.port = int(self.url.rpartition(":")[2])

    def stop(self, sign: int = signal.SIGTERM) -> int:
        if self.process is None:
            return 0
        process, self.process = self.process, None
        process.send(sign)
        return process.wait(30)

    def kill(self) -> None:
        """SIGKILL: no handler runs, nothing is flushed."""
        assert self.stop(signal.SIGKILL) == -signal.SIGKILL

    def create_key(self, name: str, budget: int) -> dict[str, str]:
        """Issue a key and return the environment for a client that uses it."""
        issued = run_json(
            "teacher", "keys", "create", "--ledger", self.ledger_url, "--name", name, "--budget", budget, "--json"
        )
        return {**ENVIRONMENT, "DISTILL_API_KEY": str(issued["key"])}
