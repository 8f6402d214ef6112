"""Bundles exchanged under a real server that is being asked all the time: no request fails, none is misattributed."""

import json
import os
import shutil
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path

import httpx2
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from shared.networks import create_network
from shared.wire.contracts import HEADER_IDEMPOTENCY_KEY, HEADER_VERSION
from shared.wire.images import NPY_MEDIA_TYPE, decode_npy, encode_npy
from teacher_server.teachers.bundle import serialise_weights, write_bundle
from teacher_server.teachers.classifier import load_classifier
from teacher_server.teachers.manifest import BundleManifest
from tests.e2e.processes import ServerProcess, run
from tests.reliability.processes import Done

NAME = "shifting"
THREADS = 4
IMAGES_NHWC = np.random.default_rng(3).integers(0, 256, (3, 28, 28, 1), np.uint8)


def make_bundle(folder: Path, version: str, *, seed: int, overwrite: bool = False) -> NDArray[np.float32]:
    """A bundle with weights of its own; returns its answers to IMAGES_NHWC."""
    torch.manual_seed(seed)
    network = create_network("lenet5-half", height=28, width=28, channels=1, classes=10)
    for parameter in network.parameters():
        parameter.data *= 2.0  # else the answers of two untrained networks are nearly the same
    weights, table = serialise_weights(network)
    manifest = BundleManifest.model_validate(
        {
            "name": NAME,
            "version": version,
            "classes": [f"class {index}" for index in range(10)],
            "input": {"height": 28, "width": 28, "channels": 1, "mean": [0.3], "std": [0.3]},
            "network": {"name": "lenet5-half"},
            "weights": table,
        }
    )
    bundle = write_bundle(folder, manifest, weights, overwrite=overwrite)
    return load_classifier(bundle).probabilities(IMAGES_NHWC)


def reload(server: ServerProcess, *, as_json: bool = True) -> Done:
    return run("teacher", "reload", "--ledger", server.ledger_url, *(["--json"] if as_json else []), timeout_s=60)


@dataclass
class Load:
    """Threads that ask without a pause and compare every answer with what its version must have said."""

    url: str
    secret: str
    answers: dict[str, NDArray[np.float32]]
    name: str = "load"
    versions: list[str] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    ended: threading.Event = field(default_factory=threading.Event)

    def ask(self, worker: int) -> None:
        headers = {"Authorization": f"Bearer {self.secret}", "Content-Type": NPY_MEDIA_TYPE, "Accept": NPY_MEDIA_TYPE}
        with httpx2.Client(base_url=self.url, headers=headers, timeout=30) as client:
            number = 0
            while not self.ended.is_set():
                number += 1
                response = client.post(
                    f"/v1/teachers/{NAME}/labels",
                    content=encode_npy(IMAGES_NHWC),
                    headers={HEADER_IDEMPOTENCY_KEY: f"{self.name}-{worker}-{number}"},
                )
                if response.status_code != 200:
                    self.faults.append(response.text)
                    return
                version = response.headers[HEADER_VERSION]
                self.versions.append(version)
                difference = np.abs(decode_npy(response.content).astype(np.float32) - self.answers[version]).max()
                if difference > 1e-5:
                    self.faults.append(f"version {version} differs from itself by {difference}")
                    return


@dataclass
class Scene:
    """One server for all tests of this file, whose versions only ever count up, and a load for one of them."""

    server: ServerProcess
    folder: Path
    load: Load
    serial: int = 1

    @property
    def version(self) -> str:
        return str(self.serial)

    def wait_for_answers(self, more: int = 20) -> None:
        """Until the load has had so many further answers."""
        wanted, end = len(self.load.versions) + more, time.monotonic() + 60
        while len(self.load.versions) < wanted and not self.load.faults and time.monotonic() < end:
            time.sleep(0.01)
        assert self.load.faults == []
        assert len(self.load.versions) >= wanted

    def require_only_late_answers_of_others(self) -> None:
        """Of the last answers only those that were in flight may come from before: one for each thread."""
        assert self.load.versions[-20:].count(self.version) >= 20 - THREADS

    def replace(self) -> None:
        """Put a bundle of the next version, with other weights, in place of the one that is served."""
        self.serial += 1
        self.load.answers[self.version] = make_bundle(self.folder, self.version, seed=self.serial, overwrite=True)


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    home = tmp_path_factory.mktemp("reload")
    answers = {"1": make_bundle(home / "bundle", "1", seed=1)}
    server = ServerProcess(home / "bundle", home / "ledger.sqlite", home / "server.log")
    server.start()
    secret = server.create_key("load", 10_000_000)["DISTILL_API_KEY"]
    yield Scene(server, home / "bundle", Load(server.url, secret, answers))
    server.stop()
    assert "Traceback" not in server.log.read_text()


@pytest.fixture
def scene(stage: Scene) -> Iterator[Scene]:
    stage.load = load = replace(
        stage.load, versions=[], faults=[], ended=threading.Event(), name=stage.load.name + "x"
    )
    with ThreadPoolExecutor(THREADS) as threads:
        asking = [threads.submit(load.ask, worker) for worker in range(THREADS)]
        try:
            stage.wait_for_answers()
            yield stage
        finally:
            load.ended.set()
    for each in asking:
        each.result()
    assert load.faults == []


def test_versions_change_under_load_and_every_answer_is_its_versions(scene: Scene) -> None:
    began_with = scene.version
    for _ in range(3):
        scene.replace()
        done = reload(scene.server)
        assert (done.returncode, json.loads(done.stdout)) == (
            0,
            {"reloaded": True, "versions": [[NAME, scene.version]], "message": ""},
        ), done.stderr
        first = len(scene.load.versions)
        scene.wait_for_answers()
        late = [version for version in scene.load.versions[first:] if version != scene.version]
        assert len(late) <= THREADS, "one for each that was in flight when the reload ended"
    assert len(set(scene.load.versions)) == 4
    assert np.abs(scene.load.answers[began_with] - scene.load.answers[scene.version]).max() > 0.01, (
        "or it proves nothing"
    )


def test_a_damaged_bundle_leaves_the_old_one_serving_and_says_why(scene: Scene) -> None:
    weights = scene.folder / "weights.safetensors"
    sound = weights.read_bytes()
    weights.write_bytes(sound[:-1] + bytes([sound[-1] ^ 1]))
    done = reload(scene.server)
    assert done.returncode == 2
    report = json.loads(done.stdout)
    assert report["reloaded"] is False
    assert f"{weights}: has SHA-256" in report["message"]
    assert report["versions"] == [[NAME, scene.version]]
    scene.wait_for_answers()

    text = reload(scene.server, as_json=False)
    assert (text.returncode, text.stdout) == (2, "")
    assert text.stderr.startswith("teacher: not reloaded, the server goes on with what it had: ")
    assert text.stderr.count("\n") == 1

    make_bundle(scene.folder, scene.version, seed=99, overwrite=True)
    refused = json.loads(reload(scene.server).stdout)
    says = f"version is '{scene.version}', under which shifting is being served with other weights"
    assert says in refused["message"]
    scene.wait_for_answers()
    assert set(scene.load.versions) == {scene.version}
    assert "reload refused, serving what was served before" in scene.server.log.read_text()


def test_two_reloads_at_once_are_both_told_how_it_ended(scene: Scene) -> None:
    scene.replace()
    with ThreadPoolExecutor(2) as threads:
        done = list(threads.map(reload, [scene.server] * 2))
    assert [each.returncode for each in done] == [0, 0], [each.stderr for each in done]
    assert all(json.loads(each.stdout)["versions"] == [[NAME, scene.version]] for each in done)
    scene.wait_for_answers()
    scene.require_only_late_answers_of_others()


def test_sighup_reloads_too_and_many_at_once_do_no_harm(scene: Scene) -> None:
    scene.replace()
    assert scene.server.process is not None
    for _ in range(20):
        os.kill(scene.server.process.pid, signal.SIGHUP)
    end = time.monotonic() + 30
    while scene.load.versions[-1:] != [scene.version] and time.monotonic() < end:
        scene.wait_for_answers(1)
    scene.wait_for_answers()
    scene.require_only_late_answers_of_others()


def test_bundles_come_and_go_in_a_folder_of_bundles_and_without_a_server_that_is_said(tmp_path: Path) -> None:
    shelf = tmp_path / "shelf"
    server = ServerProcess(shelf, tmp_path / "ledger.sqlite", tmp_path / "server.log")
    says = f"teacher: no server runs on ledger {server.ledger_url}; `teacher serve` reads its bundles at start\n"
    assert reload(server).stderr == says
    make_bundle(shelf / "v1", "1", seed=1)
    server.start()

    make_bundle(shelf / "v2", "2", seed=2)
    assert json.loads(reload(server).stdout)["versions"] == [[NAME, "1"], [NAME, "2"]]
    shutil.rmtree(shelf / "v1")
    assert json.loads(reload(server).stdout)["versions"] == [[NAME, "2"]]
    shutil.copytree(shelf / "v2", shelf / "v2-again")
    assert "two bundles are teacher 'shifting' version '2'" in json.loads(reload(server).stdout)["message"]

    server.kill()
    assert (tmp_path / "ledger.sqlite.server.json").exists(), "a killed server leaves its note"
    done = reload(server)
    assert (done.returncode, done.stderr) == (2, says), "and nobody sends a signal to a process that it names"
