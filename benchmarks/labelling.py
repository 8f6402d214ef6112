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

import httpx2
import numpy as np
from numpy.typing import NDArray

from distill_client.teachers.manners.asking import Manners
from distill_client.teachers.native.teacher import NativeTeacher, connect
from shared.wire.images import NPY_MEDIA_TYPE, encode_npy, image_digests
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
        server, teacher, url, secret = _serve(Path(folder), budget=BATCH * (REQUESTS + 1) * 12)
        try:
            for threads in (1, 2, 8):
                bought = _rate(lambda batch: teacher.label(batch, os.urandom(16).hex()), batches, threads=threads)
                _print(f"bought over HTTP, charged and fsynced, {threads} in flight", bought, bare)
            _other_protocols(url, secret, batches, bare)
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


def _other_protocols(url: str, secret: str, batches: list[NDArray[np.uint8]], bare: float) -> None:
    """The same batches through the Open Inference Protocol: binary tensors, and a few of them as JSON."""
    infer = "/v2/models/fashion-mnist-lenet5/infer"
    with httpx2.Client(base_url=url, headers={"Authorization": f"Bearer {secret}"}, timeout=60) as client:

        def as_v1(batch: NDArray[np.uint8]) -> None:
            headers = {"Content-Type": NPY_MEDIA_TYPE, "Accept": NPY_MEDIA_TYPE}
            path = "/v1/teachers/fashion-mnist-lenet5/labels"
            client.post(path, content=encode_npy(batch), headers=headers).raise_for_status()

        def as_binary(batch: NDArray[np.generic]) -> None:
            datatype = {"uint8": "UINT8", "float32": "FP32"}[str(batch.dtype)]
            raw = batch.tobytes()
            tensor: dict[str, object] = {"name": "images", "shape": batch.shape, "datatype": datatype}
            tensor |= {"parameters": {"binary_data_size": len(raw)}}
            head = json.dumps({"inputs": [tensor], "parameters": {"binary_data_output": True}}).encode()
            headers = {"Inference-Header-Content-Length": str(len(head))}
            client.post(infer, content=head + raw, headers=headers).raise_for_status()

        def as_json(batch: NDArray[np.uint8]) -> None:
            tensor = {"name": "images", "shape": batch.shape, "datatype": "UINT8", "data": batch.ravel().tolist()}
            client.post(infer, json={"inputs": [tensor]}).raise_for_status()

        levels = [(batch / np.float32(255)).astype(np.float32) for batch in batches]
        for threads in (1, 2):
            _print(f"/v1 by a bare client, {threads} in flight", _rate(as_v1, batches, threads=threads), bare)
            _print(f"/v2 binary UINT8, {threads} in flight", _rate(as_binary, batches, threads=threads), bare)
            _print(f"/v2 binary FP32, {threads} in flight", _rate(as_binary, levels, threads=threads), bare)
        _print("/v2 JSON UINT8, 1 in flight", _rate(as_json, batches[: REQUESTS // 8], threads=1), bare)


def _rate(work: Callable[[T], object], items: list[T], *, threads: int) -> float:
    """Images per second over all items, after one item to warm up."""
    work(items[0])
    with ThreadPoolExecutor(threads) as pool:
        started = time.perf_counter()
        list(pool.map(work, items))
        return BATCH * len(items) / (time.perf_counter() - started)


def _print(what: str, rate: float, bare: float) -> None:
    print(f"{what:<55} {rate:>10,.0f} images/s   {rate / bare:>6.2f} of the bare forward", flush=True)


def _serve(folder: Path, *, budget: int) -> tuple[subprocess.Popen[str], NativeTeacher, str, str]:
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
    teacher = connect(url, issued["key"], "fashion-mnist-lenet5", manners=Manners(60, requests_in_flight=8))
    return server, teacher, url, issued["key"]


if __name__ == "__main__":
    main()
