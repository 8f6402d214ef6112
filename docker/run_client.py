"""The `client` service: plan, run, evaluate, audit, as `make demo` does, against the teacher container.

The run folder is /runs/compose. A run that was cut short is resumed; a finished one is kept as compose.previous and a
fresh one is made. The exit code is 0 only if the three counts are equal to the plan's cost.
"""

import json
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

TEACHER = "http://teacher:8000"
RUNS = Path("/runs")
RUN = RUNS / "compose"
PREVIOUS = RUNS / "compose.previous"
ANSWERS = Path("/answers/teacher-answers.npz")
SECRET = Path("/key/api-key")
CANNOT_RESUME = 6  # another key's, damaged, or none of our folders


def main() -> None:
    """Run the demo's client side."""
    started = time.monotonic()
    # As process 1, this one would not hear a signal that it does not handle.
    signal.signal(signal.SIGTERM, signal.getsignal(signal.SIGINT))
    demo = json.loads(Path("data", "demo.json").read_text())
    os.environ["DISTILL_API_KEY"] = SECRET.read_text().strip()
    require_writable()

    planned = distill_json("plan", demo["config"], "--teacher", TEACHER)["total"]
    say(f"the plan, checked with the teacher and the key: {planned:,} answers to buy")
    buy_and_train(demo["config"])
    distill("evaluate", str(RUN), "--teacher-answers", str(ANSWERS))
    audit = distill_json("audit", str(RUN), "--teacher", TEACHER)
    say(f"{time.monotonic() - started:.0f} seconds in all; the picture is runs/{RUN.name}/report.png")
    if not audit["equal"] or audit["bought"] != planned:
        raise SystemExit(1)


def require_writable() -> None:
    """Say what to do where /runs belongs to somebody else."""
    if os.access(RUNS, os.W_OK):
        return
    owner = RUNS.stat()
    raise SystemExit(
        f"client: the folder for runs belongs to user {owner.st_uid}, group {owner.st_gid}, and this is user "
        f"{os.getuid()}, group {os.getgid()}: set DISTILL_UID={owner.st_uid} and DISTILL_GID={owner.st_gid}, or set "
        f"DISTILL_RUNS to another folder"
    )


def buy_and_train(config: str) -> None:
    """Resume the run in /runs/compose if it was cut short and can be; else make a fresh one."""
    if RUN.exists() and not (RUN / "summary.json").exists():
        say(f"the run in runs/{RUN.name} was cut short; it goes on, and nothing is paid for twice")
        code = distill_code("resume", str(RUN), "--teacher", TEACHER, "--json")
        if code != CANNOT_RESUME:
            require_success(code)
            return
    if RUN.exists():
        shutil.rmtree(PREVIOUS, ignore_errors=True)
        RUN.rename(PREVIOUS)
        say(f"the earlier run is kept as runs/{PREVIOUS.name}")
    say("the client buys its answers over HTTP and trains three contenders")
    require_success(distill_code("run", config, "--teacher", TEACHER, "--out", str(RUN), "--json"))


def distill(*arguments: str) -> None:
    """Run a `distill` command and show what it prints."""
    require_success(subprocess.run(["distill", *arguments], check=False).returncode)


def distill_code(*arguments: str) -> int:
    """Run a `distill` command without what it prints on stdout; its exit code."""
    return subprocess.run(["distill", *arguments], stdout=subprocess.DEVNULL, check=False).returncode


def distill_json(*arguments: str) -> dict[str, Any]:
    """Run a `distill` command with --json and read what it prints."""
    done = subprocess.run(["distill", *arguments, "--json"], stdout=subprocess.PIPE, check=False)
    require_success(done.returncode)
    report: dict[str, Any] = json.loads(done.stdout)
    return report


def require_success(code: int) -> None:
    """End with a command's exit code; its own message has been shown when it failed."""
    if code:
        raise SystemExit(code)


def say(text: str) -> None:
    """One line of what goes on."""
    print(f"client: {text}", flush=True)


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        say("stopped; the next `up` goes on with the run, nothing is paid for twice")
        raise SystemExit(130) from None
