"""`teacher train` as an owner types it."""

import signal
from pathlib import Path

from teacher_server.teachers.bundle import load_bundle
from tests.reliability.processes import ForkServer, wait_until

PYTHON = ForkServer("tests.reliability.python_program:main")
TRAIN = ("python", "from teacher_server.cli import main; main()", "train", "--dataset", "digits")


def test_a_version_can_be_given_and_the_recorded_command_makes_the_bundle_again(tmp_path: Path) -> None:
    out = tmp_path / "b"
    flags = ["--network", "lenet5", "--epochs", "1", "--name", "mine", "--version", "2.1", "--out", str(out)]
    done = PYTHON.run(*TRAIN, *flags)
    assert done.returncode == 0, done.stderr
    manifest = load_bundle(out).manifest
    assert (manifest.name, manifest.version) == ("mine", "2.1")
    assert manifest.training is not None
    assert manifest.training.command == (
        f"teacher train --dataset digits --network lenet5 --out {out} --device cpu --seed 1 --epochs 1 --name mine "
        "--version 2.1"
    )


def test_who_stops_a_training_is_told_that_it_goes_on(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.touch()
    process = PYTHON.start(*TRAIN, "--network", "lenet5", "--epochs", "5000", "--out", tmp_path / "b", log=log)
    try:
        wait_until(lambda: "\n" in log.read_text())
        assert log.read_text().startswith("step ")
        process.send(signal.SIGINT)
        assert process.wait(60) == 130
    finally:
        process.kill()
    stderr = log.read_text()
    assert log.with_suffix(".out").read_text() == ""
    assert stderr.endswith("teacher: stopped; the same command goes on from the last epoch that was saved\n")
    assert "Traceback" not in stderr
    assert not (tmp_path / "b").exists()
