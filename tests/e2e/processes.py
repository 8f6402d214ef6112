"""Our commands as real processes, and a server that can be killed and started again."""

import json
import os
import signal
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent
# One thread each: the machine is shared by a server, a client and whatever else tests run.
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


def command(*words: object) -> list[str]:
    program, *arguments = map(str, words)
    return [str(BIN / program), *arguments]


def run_json(*words: object, env: dict[str, str] | None = None) -> dict[str, object]:
    done = subprocess.run(
        command(*words), env=env or ENVIRONMENT, stdout=subprocess.PIPE, text=True, check=True, timeout=120
    )
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
    process: subprocess.Popen[str] | None = field(default=None, repr=False)

    @property
    def ledger_url(self) -> str:
        return f"sqlite:///{self.ledger}"

    def start(self) -> None:
        where = ("--bundle", self.bundle, "--ledger", self.ledger_url, "--port", self.port)
        with self.log.open("a") as stderr:
            self.process = subprocess.Popen(
                command("teacher", "serve", *where, "--json"),
                env=ENVIRONMENT,
                stdout=subprocess.PIPE,
                stderr=stderr,
                text=True,
            )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, self.log.read_text()
        self.url = json.loads(line)["url"]
        self.port = int(self.url.rpartition(":")[2])

    def stop(self, sign: int = signal.SIGTERM) -> int:
        if self.process is None:
            return 0
        process, self.process = self.process, None
        process.send_signal(sign)
        code = process.wait(30)
        if process.stdout is not None:
            process.stdout.close()
        return code

    def kill(self) -> None:
        """SIGKILL: no handler runs, nothing is flushed."""
        assert self.stop(signal.SIGKILL) == -signal.SIGKILL

    def create_key(self, name: str, budget: int) -> dict[str, str]:
        """Issue a key and return the environment for a client that uses it."""
        issued = run_json(
            "teacher", "keys", "create", "--ledger", self.ledger_url, "--name", name, "--budget", budget, "--json"
        )
        return {**ENVIRONMENT, "DISTILL_API_KEY": str(issued["key"])}
