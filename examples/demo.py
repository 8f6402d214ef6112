"""`make demo`: a private teacher, a key, a student and the bill, through the commands that anyone would type.

Starts a real server on a free port, issues a key whose budget is exactly the plan's cost, runs the client over HTTP,
measures agreement with the owner's answers, and prints one table. The server is stopped however the demo ends.
Without Fashion-MNIST and without a network it says so, and runs on scikit-learn's bundled digits.
"""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from shared.datasets import DatasetUnavailable, load_dataset

PROJECT = Path(__file__).resolve().parent.parent
BIN = Path(sys.executable).parent
RUNS = PROJECT / "runs"
STOP_TIMEOUT_S = 10


def main() -> int:
    """Run the demo; the exit code is 0 only if the three counts are equal."""
    started = time.monotonic()
    signal.signal(signal.SIGTERM, _interrupt)
    work = RUNS / "demo-teacher"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    dataset, config, bundle = _choose(work)
    ledger = f"sqlite:///{work / 'ledger.sqlite'}"
    run_dir = _fresh_run_folder()

    with _serving(bundle, ledger, work) as url:
        _say(f"the teacher serves at {url}; its API is described at {url}/docs")
        planned = _json("distill", "plan", config, "--json")["total"]
        _say(f"a key with a budget of exactly {planned:,} images, the plan's cost")
        issued = _json(
            "teacher", "keys", "create", "--ledger", ledger, "--name", "demo", "--budget", planned, "--json"
        )
        environment = {**os.environ, "DISTILL_API_KEY": str(issued["key"])}
        _say("the client buys its answers over HTTP and trains three contenders")
        _run("distill", "run", config, "--teacher", url, "--out", run_dir, "--json", env=environment, quiet=True)
        _say("the owner's own answers on the test set, offline, to measure agreement")
        answers = work / "teacher-answers.npz"
        _run("teacher", "predict", "--bundle", bundle, "--dataset", dataset, "--out", answers, quiet=True)
        _run("distill", "evaluate", run_dir, "--teacher-answers", answers)
        audit = _json("distill", "audit", run_dir, "--json", env=environment)
    _say(f"{time.monotonic() - started:.0f} seconds in all; the picture is {_shown(run_dir / 'report.png')}")
    return 0 if audit["equal"] and audit["bought"] == planned else 1


def _choose(work: Path) -> tuple[str, Path, Path]:
    """The data set, experiment and bundle: Fashion-MNIST where it is to be had, else digits."""
    try:
        load_dataset("fashion-mnist", "test")
    except DatasetUnavailable as error:
        _say(f"{error}\nrunning on scikit-learn's bundled digits instead: a smaller task, with a teacher made now")
        bundle = work / "digits-lenet5"
        _run("teacher", "train", "--dataset", "digits", "--network", "lenet5", "--out", bundle)
        return "digits", PROJECT / "configs" / "demo-digits.toml", bundle
    return (
        "fashion-mnist",
        PROJECT / "configs" / "demo-fashion-mnist.toml",
        PROJECT / "bundles" / "fashion-mnist-lenet5",
    )


def _fresh_run_folder() -> Path:
    """runs/demo, with what an earlier demo left there moved to runs/demo.previous."""
    current, previous = RUNS / "demo", RUNS / "demo.previous"
    if current.exists():
        shutil.rmtree(previous, ignore_errors=True)
        current.rename(previous)
    return current


@contextlib.contextmanager
def _serving(bundle: Path, ledger: str, work: Path) -> Iterator[str]:
    """A server process of its own on a free port, stopped on leaving; its log is kept."""
    command = [str(BIN / "teacher"), "serve", "--bundle", str(bundle), "--ledger", ledger, "--port", "0", "--json"]
    log = work / "server.log"
    with log.open("w") as stderr:
        # Its own session, so that Ctrl-C reaches the client first and the server lives until it is stopped below.
        server = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=stderr, text=True, start_new_session=True)
    try:
        line = server.stdout.readline() if server.stdout else ""
        if not line:
            raise SystemExit(f"demo: the server did not start:\n{log.read_text()}")
        yield json.loads(line)["url"]
    finally:
        server.terminate()
        try:
            server.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()


def _run(*command: object, env: dict[str, str] | None = None, quiet: bool = False) -> None:
    """Run one of our commands; its own message has been shown when it fails, so only its exit code is passed on."""
    done = subprocess.run(_argv(command), env=env, stdout=subprocess.DEVNULL if quiet else None, check=False)
    if done.returncode:
        raise SystemExit(done.returncode)


def _json(*command: object, env: dict[str, str] | None = None) -> dict[str, object]:
    """Run one of our commands with --json and read what it prints."""
    done = subprocess.run(_argv(command), env=env, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.returncode)
    content: dict[str, object] = json.loads(done.stdout)
    return content


def _argv(command: tuple[object, ...]) -> list[str]:
    program, *arguments = map(str, command)
    return [str(BIN / program), *arguments]


def _say(text: str) -> None:
    print(f"demo: {text}", flush=True)


def _shown(path: Path) -> Path:
    return path.relative_to(PROJECT)


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        print("\ndemo: stopped; the server is stopped too", file=sys.stderr)
        sys.exit(130)
