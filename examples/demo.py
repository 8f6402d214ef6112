"""`make demo`: a private teacher, a key, a student and the bill, through the commands that anyone would type.

Starts a real server on a free port, issues a key whose budget is exactly the plan's cost, runs the client over HTTP,
measures agreement with the owner's answers, and prints one table. The server is stopped however the demo ends.
Without Fashion-MNIST and without a network it says so, and runs on scikit-learn's bundled digits.
"""

import os
import shutil
import signal
import subprocess
import time
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from examples.local_teacher import CommandFailed, issue_key, run, run_json, serving
from shared.datasets import DatasetUnavailable, load_dataset

PROJECT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Setting:
    """An experiment, the bundle that serves it, and the data set both are about."""

    config: Path
    bundle: Path
    dataset: str


def main(
    config: Annotated[Path | None, typer.Option(help="another experiment than the demo's; needs --bundle")] = None,
    bundle: Annotated[Path | None, typer.Option(help="the teacher bundle that the experiment asks")] = None,
    runs: Annotated[Path, typer.Option(help="where demo/ and demo-teacher/ are made")] = PROJECT / "runs",
    disclosure: Annotated[str, typer.Option(help="what the key may see of an answer")] = "probabilities",
) -> None:
    """Run the demo; the exit code is 0 only if the three counts are equal to the plan's cost."""
    started = time.monotonic()
    signal.signal(signal.SIGTERM, _interrupt)
    # Networks this small gain nothing from a second thread, and lose tenfold where somebody else uses the cores.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    if (config is None) != (bundle is None):
        raise SystemExit("demo: --config and --bundle go together: an experiment and the teacher that it asks")
    work = runs / "demo-teacher"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    setting = _given(config, bundle) if config and bundle else _choose(work)
    ledger = f"sqlite:///{work / 'ledger.sqlite'}"
    run_dir = _fresh_run_folder(runs)

    with serving(setting.bundle, ledger, work / "server.log") as url:
        _say(f"the teacher serves at {url}; its API is described at {url}/docs")
        planned = int(str(run_json("distill", "plan", setting.config, "--json")["total"]))
        _say(f"a key with a budget of exactly {planned:,} images, the plan's cost")
        key = issue_key(ledger, name="demo", budget=planned, disclosure=disclosure)
        environment = {**os.environ, "DISTILL_API_KEY": key}
        _say("the client buys its answers over HTTP and trains three contenders")
        buys = ("distill", "run", setting.config, "--teacher", url, "--out", run_dir, "--json")
        run(*buys, env=environment, out=subprocess.DEVNULL)
        _say("the owner's own answers on the test set, written offline, to measure agreement")
        answers = work / "teacher-answers.npz"
        about = ("--bundle", setting.bundle, "--dataset", setting.dataset)
        run("teacher", "predict", *about, "--out", answers, out=subprocess.DEVNULL)
        run("distill", "evaluate", run_dir, "--teacher-answers", answers)
        audit = run_json("distill", "audit", run_dir, "--json", env=environment)
    _say(f"{time.monotonic() - started:.0f} seconds in all; the picture is {run_dir / 'report.png'}")
    if not audit["equal"] or audit["bought"] != planned:
        raise SystemExit(1)


def _given(config: Path, bundle: Path) -> Setting:
    with config.open("rb") as file:
        return Setting(config, bundle, tomllib.load(file)["evaluation"]["dataset"])


def _choose(work: Path) -> Setting:
    """Fashion-MNIST where it is to be had, else digits with a teacher trained on the spot."""
    try:
        load_dataset("fashion-mnist", "train")
        load_dataset("fashion-mnist", "test")
    except DatasetUnavailable as error:
        _say(f"{error}\ndemo: running on scikit-learn's bundled digits instead, with a teacher trained on the spot")
        bundle = work / "digits-lenet5"
        run("teacher", "train", "--dataset", "digits", "--network", "lenet5", "--out", bundle)
        return Setting(PROJECT / "configs" / "demo-digits.toml", bundle, "digits")
    bundle = PROJECT / "bundles" / "fashion-mnist-lenet5"
    return Setting(PROJECT / "configs" / "demo-fashion-mnist.toml", bundle, "fashion-mnist")


def _fresh_run_folder(runs: Path) -> Path:
    """runs/demo, with what an earlier demo left there moved to runs/demo.previous."""
    current, previous = runs / "demo", runs / "demo.previous"
    if current.exists():
        shutil.rmtree(previous, ignore_errors=True)
        current.rename(previous)
    return current


def _say(text: str) -> None:
    print(f"demo: {text}", flush=True)


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    try:
        typer.run(main)
    except CommandFailed as failed:  # and has said why
        raise SystemExit(failed.returncode) from None
    except KeyboardInterrupt:
        typer.echo("\ndemo: stopped, and the server with it", err=True)
        raise SystemExit(130) from None
