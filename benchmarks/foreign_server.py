"""A whole run against an inference server that we did not write: `.venv/bin/python benchmarks/foreign_server.py`.

MLServer is installed into an environment of its own (its pins clash with ours), hosts the committed Fashion-MNIST
teacher, and is asked through the open-inference adapter. The same experiment with the same seed is bought
from our own `teacher serve`. Printed: both students' accuracy, how far apart the paid answers to the same images
are, and the client's own ledger beside MLServer's own metrics. It ends with 1 when ledger and metrics differ.
"""

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import time
import tomllib
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tomli_w
import typer

from distill_client.run_folder import open_run
from shared.wire.receipts import chain_faults
from teacher_server.teachers.bundle import Bundle, load_bundle

PROJECT = Path(__file__).resolve().parent.parent
BIN = Path(sys.executable).parent
BUNDLE = PROJECT / "bundles" / "fashion-mnist-lenet5"
CONFIG = PROJECT / "configs" / "demo-fashion-mnist.toml"
PACKAGES = ("mlserver==1.7.1",)
POOL_IMAGES, QUERIES, IMAGES_PER_CALL = 2_000, 5_000, 50
START_S, STOP_S = 60, 10


@dataclass(frozen=True)
class Counted:
    """Calls and images, by one side's count."""

    calls: int
    images: int


def main(
    work: Annotated[Path, typer.Option(help="where all is made")] = PROJECT / "runs" / "foreign-server",
    seed: Annotated[int, typer.Option(help="of both runs")] = 1,
    steps: Annotated[int, typer.Option(help="of the student's training; 0 for the demo's own")] = 0,
    cvae_epochs: Annotated[int, typer.Option(help="of the CVAE's training; 0 for the demo's own")] = 0,
) -> None:
    """Run both and print; the exit code is a command's own when one fails."""
    signal.signal(signal.SIGTERM, _interrupt)
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    work.mkdir(parents=True, exist_ok=True)
    for name in ("foreign", "own", "ledger.sqlite", "ledger.sqlite-wal", "ledger.sqlite-shm"):
        path = work / name
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    config = _write_config(work / "config.toml", seed=seed, steps=steps, cvae_epochs=cvae_epochs)
    python = _environment(work / "mlserver-environment")
    model = _write_model(work / "mlserver-model", load_bundle(BUNDLE))

    with _mlserver(python, model, work) as (url, metrics_url):
        teacher = _write_teacher(work / "teacher.toml", url)
        before = _metrics(metrics_url)
        _run("distill", "run", config, "--teacher", teacher, "--out", work / "foreign")
        after = _metrics(metrics_url)
    served = Counted(after.calls - before.calls, after.images - before.images)
    own = _buy_from_our_own(config, work)

    counted = _ledger(work / "foreign")
    foreign = json.loads((work / "foreign" / "summary.json").read_text())
    print(f"student through MLServer {100 * foreign['student_accuracy']:.2f} %, through our server {100 * own:.2f} %")
    print(_differences(work / "foreign", work / "own"))
    print(f"the client's own ledger: {counted.images:,} images in {counted.calls:,} calls")
    print(f"MLServer's metrics:      {served.images:,} images in {served.calls:,} calls")
    raise SystemExit(0 if counted == served and counted.images == QUERIES else 1)


def _write_config(path: Path, *, seed: int, steps: int, cvae_epochs: int) -> Path:
    """The demo's experiment with fewer queries, and without the contenders that buy nothing of their own."""
    content = tomllib.loads(CONFIG.read_text())
    content |= {"name": "foreign-server", "seed": seed, "budget_images": QUERIES}
    content["pool"]["images"] = POOL_IMAGES
    content["synthesis"]["images"] = QUERIES - POOL_IMAGES
    # One call at a time, so that neither server puts rows of two calls into one batch: batches round differently.
    content["teacher"] |= {"images_per_request": IMAGES_PER_CALL, "requests_in_flight": 1}
    content["baselines"] = {"student_alone": False, "standard_kd": False}
    if steps:
        content["training"] |= {"steps": steps, "warmup_steps": min(steps // 10, content["training"]["warmup_steps"])}
    if cvae_epochs:
        content["synthesis"]["cvae"]["epochs"] = cvae_epochs
    path.write_text(tomli_w.dumps(content))
    return path


def _environment(folder: Path) -> Path:
    """Python with MLServer; made once."""
    python = folder / "bin" / "python"
    if not (folder / "installed").exists():
        _say(f"installing {' and '.join(PACKAGES)} into {folder}")
        shutil.rmtree(folder, ignore_errors=True)
        subprocess.run([BIN / "uv", "venv", "--quiet", "--python", sys.executable, folder], check=True)
        install = [str(BIN / "uv"), "pip", "install", "--quiet", "--python", str(python), *PACKAGES]
        subprocess.run(install, check=True)
        # What MLServer does not bring, torch above all, is found in ours: after its own, which its pins are about.
        (packages,) = folder.glob("lib/python*/site-packages")
        (packages / "ours.pth").write_text(f"{sysconfig.get_path('purelib')}\n{PROJECT}\n")
        (folder / "installed").touch()
    return python


def _write_model(folder: Path, bundle: Bundle) -> Path:
    """What MLServer loads: the runtime, and which bundle it hosts."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    shutil.copy(Path(__file__).parent / "mlserver_runtime.py", folder / "runtime.py")
    spec, classes = bundle.manifest.input, list(bundle.manifest.classes)
    described: dict[str, Any] = {
        "name": bundle.manifest.name,
        "implementation": "runtime.BundleModel",
        "parameters": {"version": bundle.manifest.version, "uri": str(bundle.folder)},
        "inputs": [{"name": "images", "datatype": "UINT8", "shape": [-1, spec.height, spec.width, spec.channels]}],
        "outputs": [{"name": "probabilities", "datatype": "FP64", "shape": [-1, len(classes)]}],
    }
    (folder / "model-settings.json").write_text(json.dumps(described))
    return folder


@contextlib.contextmanager
def _mlserver(python: Path, model: Path, work: Path) -> Iterator[tuple[str, str]]:
    """MLServer on free ports, stopped on leaving; its address and that of its metrics."""
    http, grpc, metrics = (_free_port() for _ in range(3))
    settings = {
        "host": "127.0.0.1",
        "http_port": http,
        "grpc_port": grpc,
        "metrics_port": metrics,
        "parallel_workers": 0,
        "debug": False,
        "metrics_dir": str(work / "mlserver-metrics"),
    }
    (work / "mlserver-metrics").mkdir(exist_ok=True)
    (model / "settings.json").write_text(json.dumps(settings))
    url = f"http://127.0.0.1:{http}"
    environment = {**os.environ, "PYTHONPATH": str(model)}
    with (work / "mlserver.log").open("w") as log:
        command = [str(python.parent / "mlserver"), "start", str(model)]
        server = subprocess.Popen(command, stdout=log, stderr=log, env=environment, start_new_session=True)
    try:
        _wait_until_ready(server, f"{url}/v2/models/{load_bundle(BUNDLE).manifest.name}/ready")
        yield url, f"http://127.0.0.1:{metrics}/metrics"
    finally:
        _stop(server)


def _wait_until_ready(server: subprocess.Popen[Any], url: str) -> None:
    ends = time.monotonic() + START_S
    while server.poll() is None and time.monotonic() < ends:
        with contextlib.suppress(urllib.error.URLError, OSError), urllib.request.urlopen(url, timeout=2):  # noqa: S310
            return
        time.sleep(0.2)
    raise SystemExit(f"foreign_server: {url} is not ready, after up to {START_S} s; see mlserver.log")


def _write_teacher(path: Path, url: str) -> Path:
    """The teacher's file that a user would write."""
    manifest = load_bundle(BUNDLE).manifest
    spec = manifest.input
    content = {
        "kind": "open-inference",
        "name": manifest.name,
        "url": url,
        "model": manifest.name,
        "datatype": "UINT8",
        "wire": "json",
        "classes": list(manifest.classes),
        "image_size": f"{spec.height}x{spec.width}x{spec.channels}",
        "images_per_call": IMAGES_PER_CALL,
        "max_queries": QUERIES,
        "i_have_permission": True,
    }
    path.write_text(tomli_w.dumps(content))
    return path


def _metrics(url: str) -> Counted:
    """What MLServer counts: answered calls by itself, images by the runtime's own metric in the same registry."""
    with urllib.request.urlopen(url, timeout=5) as reply:  # noqa: S310 - http, to the server that we started
        text = reply.read().decode()
    values: dict[str, float] = {}
    for name, value in re.findall(
        r"(?m)^(model_infer_request_success_total|images_answered_total)(?:\{.*\})? (\S+)$", text
    ):
        values[name] = values.get(name, 0.0) + float(value)
    return Counted(
        int(values.get("model_infer_request_success_total", 0)), int(values.get("images_answered_total", 0))
    )


def _buy_from_our_own(config: Path, work: Path) -> float:
    """The same experiment through our own protocol; the student's accuracy."""
    ledger = f"sqlite:///{work / 'ledger.sqlite'}"
    command = [str(BIN / "teacher"), "serve", "--bundle", str(BUNDLE), "--ledger", ledger, "--port", "0", "--json"]
    with (work / "server.log").open("w") as log:
        server = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True, start_new_session=True)
    try:
        line = server.stdout.readline() if server.stdout else ""
        if not line:
            raise SystemExit(f"foreign_server: our own server did not start:\n{(work / 'server.log').read_text()}")
        issue = ["keys", "create", "--ledger", ledger, "--name", "foreign-server", "--budget", QUERIES]
        key = subprocess.run(
            [BIN / "teacher", *map(str, issue)], check=True, stdout=subprocess.PIPE, text=True
        ).stdout.strip()
        url = json.loads(line)["url"]
        environment = {**os.environ, "DISTILL_API_KEY": key}
        _run("distill", "run", config, "--teacher", url, "--out", work / "own", env=environment)
    finally:
        _stop(server)
    return float(json.loads((work / "own" / "summary.json").read_text())["student_accuracy"])


def _ledger(folder: Path) -> Counted:
    """What the client's own ledger says was answered; one that is not sound ends the benchmark."""
    with open_run(folder) as run:
        ledger = run.labels.own_ledger
        events = ledger.events()
        if faults := chain_faults(events):
            raise SystemExit(f"foreign_server: the client's own ledger is not sound: {faults[0]}")
        answers = [event for event in events if event.kind == "answer"]
        spent = ledger.usage().spent
    counted = Counted(len(answers), sum(event.images for event in answers))
    if spent != counted.images:
        _say(f"{spent - counted.images} images more count as spent: their calls failed")
    return counted


def _differences(foreign: Path, own: Path) -> str:
    """Of the answers to the images that are the same in both runs: the pool and MixUp, drawn from the seed alone."""
    with open_run(foreign) as one, open_run(own) as other:
        stages = [stage for stage in ("pool", "mixup") if one.labels.has_stage(stage)]
        mine, theirs = one.labels.labelled(*stages), other.labels.labelled(*stages)
    if not np.array_equal(mine.images_nhwc, theirs.images_nhwc):
        raise SystemExit("foreign_server: the two runs did not ask for the same images")
    apart_nk = np.abs(mine.values - theirs.values)
    changed = int((mine.values.argmax(axis=1) != theirs.values.argmax(axis=1)).sum())
    return (
        f"paid answers to the same {len(apart_nk):,} images: at most {apart_nk.max():.1e} apart, "
        f"{100 * (apart_nk == 0).all(axis=1).mean():.1f} % of rows equal, {changed} other labels"
    )


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def _stop(server: subprocess.Popen[Any]) -> None:
    server.terminate()
    try:
        server.wait(STOP_S)
    except subprocess.TimeoutExpired:
        server.kill()
        server.wait()


def _run(program: str, *arguments: object, env: dict[str, str] | None = None) -> None:
    done = subprocess.run([BIN / program, *map(str, arguments)], env=env, stdout=subprocess.DEVNULL, check=False)
    if done.returncode:
        raise SystemExit(done.returncode)


def _say(text: str) -> None:
    print(f"foreign_server: {text}", flush=True)


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    typer.run(main)
