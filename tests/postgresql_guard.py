"""Beside a PostgreSQL of the tests: waits until whoever started this is gone or says so, then ends and removes it."""

import os
import shutil
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path

_PATIENCE_S = 30


def main(home: Path) -> None:
    sys.stdin.buffer.read()  # ends when the other side is closed, which happens to a killed one too
    pid_file = home / "data" / "postmaster.pid"
    with suppress(OSError, ValueError, IndexError):
        pid = int(pid_file.read_text().splitlines()[0])
        if Path(f"/proc/{pid}/stat").read_text().split()[1] == "(postgres)":
            os.kill(pid, signal.SIGQUIT)  # at once: its data is thrown away
            deadline = time.monotonic() + _PATIENCE_S
            while pid_file.exists() and Path(f"/proc/{pid}").exists() and time.monotonic() < deadline:
                time.sleep(0.02)
    shutil.rmtree(home, ignore_errors=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
