"""A teacher's training as a real process: killed with SIGKILL, the same order ends with the same bundle."""

import time
from pathlib import Path

from tests.reliability.processes import ForkServer, Program

# The order that `teacher train` gives, but with a checkpoint after every epoch instead of every ten seconds.
PROGRAM = """
import sys
from pathlib import Path
from teacher_server.training import fitting
from teacher_server.training.order import TrainingOrder
from teacher_server.training.training import train_and_write_bundle
fitting.SECONDS_PER_CHECKPOINT = 0
train_and_write_bundle(TrainingOrder("digits", "lenet5", epochs=8), Path(sys.argv[1]))
"""


PYTHON = ForkServer("tests.reliability.python_program:main")


def start(folder: Path) -> Program:
    return PYTHON.start("python", PROGRAM, folder, log=folder.with_name("log"))


def test_a_training_killed_twice_makes_the_bundle_that_an_undisturbed_one_makes(tmp_path: Path) -> None:
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    checkpoint = tmp_path / "killed.unfinished.safetensors"
    seen = b""
    for _ in range(2):
        process = start(killed)
        deadline = time.monotonic() + 60
        while not checkpoint.exists() or checkpoint.read_bytes() == seen:
            assert process.poll() is None, "it ended before it could be killed"
            assert time.monotonic() < deadline
            time.sleep(0.01)
        assert process.kill()
        assert not killed.exists()
        seen = checkpoint.read_bytes()

    assert start(killed).wait(120) == 0, (tmp_path / "log").read_text()
    assert start(whole).wait(120) == 0, (tmp_path / "log").read_text()

    assert (killed / "weights.safetensors").read_bytes() == (whole / "weights.safetensors").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir() if path.stem != "log") == ["killed", "whole"]
