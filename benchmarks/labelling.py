"""How fast answers are bought, side by side with the bare forward that is the limit: `make bench`.

Everything is measured in one run on one machine, so only the ratios mean something. No figure here is a test.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import numpy as np

from distill_client.teachers.manners.asking import Manners
from distill_client.teachers.native.teacher import NativeTeacher, connect
from shared.wire.images import encode_npy, image_digests
from teacher_server.teachers.teacher import load_teacher

PROJECT = Path(__file__).resolve().parent.parent
BIN = Path(sys.executable).parent
BUNDLE = PROJECT / "bundles" / "fashion-mnist-lenet5"
BATCH = 256
REQUESTS = 80
T = TypeVar("T")


def main() -> None:
    """Print images per second of each path and its ratio to the bare forward."""
    rng = np.random.default_rng(1)
    batches = [rng.integers(0, 256, (BATCH, 28, 28, 1), dtype=np.uint8) for _ in range(REQUESTS)]
    classifier = load_teacher(BUNDLE, device="cpu").classifier
    bare = _rate(classifier.probabilities, batches, threads=1)
    _print("bare forward (the limit)", bare, bare)
    _print("digests of the images alone", _rate(image_digests, batches, threads=1), bare)
    _print("encoding .npy alone", _rate(encode_npy, batches, threads=1), bare)
    with tempfile.TemporaryDirectory() as folder:
        server, teacher = _serve(Path(folder), budget=BATCH * (REQUESTS + 1) * 4)
        try:
            for threads in (1, 2, 8):
                bought = _rate(lambda batch: teacher.label(batch, os.urandom(16).hex()), batches, threads=threads)
                _print(f"bought over HTTP, charged and fsynced, {threads} in flight", bought, bare)
            keys = [os.urandom(16).hex() for _ in batches]
            for batch, key in zip(batches, keys, strict=True):
                teacher.label(batch, key)
            pairs = list(zip(batches, keys, strict=True))
            replayed = _rate(lambda pair: teacher.label(*pair), pairs, threads=1)
            _print("replayed over HTTP, 1 in flight", replayed, bare)
        finally:
            teacher.close()
            server.terminate()
            server.wait()


def _rate(work: Callable[[T], object], items: list[T], *, threads: int) -> float:
    """Images per second over all items, after one item to warm up."""
    work(items[0])
    with ThreadPoolExecutor(threads) as pool:
        started = time.perf_counter()
        list(pool.map(work, items))
        return BATCH * len(items) / (time.perf_counter() - started)


def _print(what: str, rate: float, bare: float) -> None:
    print(f"{what:<55} {rate:>10,.0f} images/s   {rate / bare:>6.2f} of the bare forward", flush=True)


def _serve(folder: Path, *, budget: int) -> tuple[subprocess.Popen[str], NativeTeacher]:
    ledger = f"sqlite:///{folder / 'ledger.sqlite'}"
    server = subprocess.Popen(
        [BIN / "teacher", "serve", "--bundle", BUNDLE, "--ledger", ledger, "--port", "0", "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    url = json.loads(server.stdout.readline() if server.stdout else "")["url"]
    create = [str(BIN / "teacher"), "keys", "create", "--ledger", ledger, "--name", "bench", "--json"]
    create += ["--budget", str(budget)]
    issued = json.loads(subprocess.run(create, stdout=subprocess.PIPE, check=True, text=True).stdout)
    return server, connect(url, issued["key"], "fashion-mnist-lenet5", manners=Manners(60, requests_in_flight=8))


if __name__ == "__main__":
    main()
