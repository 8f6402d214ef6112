"""`teacher train` as an owner types it."""

import signal
import subprocess
import sys
from pathlib import Path

from teacher_server.teachers.bundle import load_bundle
from tests.e2e.processes import ENVIRONMENT, PROJECT

TRAIN = (sys.executable, "-c", "from teacher_server.cli import main; main()", "train", "--dataset", "digits")


def test_a_version_can_be_given_and_the_recorded_command_makes_the_bundle_again(tmp_path: Path) -> None:
    out = tmp_path / "b"
    flags = ["--network", "lenet5", "--epochs", "1", "--name", "mine", "--version", "2.1", "--out", str(out)]
    done = subprocess.run(
        [*TRAIN, *flags], cwd=PROJECT, env=ENVIRONMENT, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    manifest = load_bundle(out).manifest
    assert (manifest.name, manifest.version) == ("mine", "2.1")
    assert manifest.training is not None
    assert manifest.training.command == (
        f"teacher train --dataset digits --network lenet5 --out {out} --device cpu --seed 1 --epochs 1 --name mine "
        "--version 2.1"
    )


def test_who_stops_a_training_is_told_that_it_goes_on(tmp_path: Path) -> None:
    with subprocess.Popen(
        [*TRAIN, "--network", "lenet5", "--epochs", "5000", "--out", str(tmp_path / "b")],
        cwd=PROJECT,
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            assert process.stderr is not None
            assert process.stderr.readline().startswith("step ")
            process.send_signal(signal.SIGINT)
            stdout, stderr = process.communicate(timeout=60)
        finally:
            process.kill()
        assert (process.returncode, stdout) == (130, "")
    assert stderr.endswith("teacher: stopped; the same command goes on from the last epoch that was saved\n")
    assert "Traceback" not in stderr
    assert not (tmp_path / "b").exists()
