"""Our commands as real processes, and a server that can be killed and started again.

Most are forked by a process that has imported torch once, see ``tests.reliability.processes``: they start at once.
"""

import json
import os
import signal
import sys
from dataclasses import dataclass, field
from pathlib import Path

from tests.reliability.processes import Done, ForkServer, Program, wait_until

PROJECT = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent
# One thread each: the machine is shared by a server, a client and whatever else tests run.
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


def command(*words: object) -> list[str]:
    program, *arguments = map(str, words)
    return [str(BIN / program), *arguments]


_FORKS = {
    "teacher": ForkServer("tests.e2e.teacher_program:main"),
    "distill": ForkServer("tests.reliability.distill_program:main"),
}


def start(*words: object, log: Path, env: dict[str, str] | None = None) -> Program:
    """Start `teacher ...` or `distill ...`; standard output goes to ``log`` with the suffix .out, the rest to it."""
    return _FORKS[str(words[0])].start(*words, log=log, env=env or ENVIRONMENT)


def run(*words: object, env: dict[str, str] | None = None, timeout_s: float = 120) -> Done:
    """Run a command to its end."""
    return _FORKS[str(words[0])].run(*words, env=env or ENVIRONMENT, timeout_s=timeout_s)


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
