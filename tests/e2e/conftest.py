"""A server process and a small experiment, on a teacher trained on the digits."""

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.processes import ServerProcess, run_json


@pytest.fixture(scope="session", autouse=True)
def _children_hear_ctrl_c() -> None:
    """A shell starts its background jobs with Ctrl-C ignored, and children inherit that; here it must work."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def digits_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bundles") / "digits-lenet5"
    run_json(
        "teacher", "train", "--dataset", "digits", "--network", "lenet5", "--out", folder, "--epochs", 2, "--json"
    )
    return folder


@pytest.fixture
def server(digits_bundle: Path, tmp_path: Path) -> Iterator[ServerProcess]:
    process = ServerProcess(digits_bundle, tmp_path / "ledger.sqlite", tmp_path / "server.log")
    process.start()
    yield process
    process.stop()
    assert "Traceback" not in process.log.read_text()


@pytest.fixture
def small_config(tmp_path: Path) -> Path:
    """A whole experiment in seconds: 140 images in 35 requests, so that there are many moments to kill at."""
    path = tmp_path / "small.toml"
    path.write_text(
        """
name = "small"
seed = 3
budget_images = 140

[teacher]
name = "digits-lenet5"
images_per_request = 4
requests_in_flight = 2
deadline_s = 60

[pool]
dataset = "digits"
images = 40

[synthesis]
images = 100
[synthesis.cvae]
epochs = 3

[student]
network = "lenet5-half"
augmentation = "mixup"

[training]
batch_size = 32
steps = 40

[evaluation]
dataset = "digits"
held_out_fraction = 0.1
"""
    )
    return path
