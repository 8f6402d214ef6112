"""Where no engine can be had, compose-test says so with 75, and .ci/run takes that, and nothing else, for skipped."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parents[2]
NEEDED = ("bash", "dirname", "env", "timeout")
SKIPPED = 75


def folder_of_commands(folder: Path) -> Path:
    """A folder with the few commands that the scripts need, and no docker."""
    folder.mkdir()
    for name in NEEDED:
        found = shutil.which(name)
        assert found, name
        (folder / name).symlink_to(found)
    return folder


def write_script(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/usr/bin/env bash\n{text}\n")
    path.chmod(0o755)


def run(script: Path, path: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PATH": str(path)}
    return subprocess.run([str(script)], env=environment, capture_output=True, text=True, check=False, timeout=60)


def test_without_an_engine_compose_test_says_why_and_ends_with_75(tmp_path: Path) -> None:
    script = tmp_path / "project" / "docker" / "compose-test"
    script.parent.mkdir(parents=True)
    shutil.copy(PROJECT / "docker" / "compose-test", script)
    done = run(script, folder_of_commands(tmp_path / "commands"))
    assert done.returncode == SKIPPED
    assert done.stdout == ""
    assert done.stderr.startswith("compose-test: SKIPPED: no Docker engine")


def test_an_engine_that_a_workplace_lends_is_used(tmp_path: Path) -> None:
    script = tmp_path / "project" / "docker" / "compose-test"
    script.parent.mkdir(parents=True)
    shutil.copy(PROJECT / "docker" / "compose-test", script)
    write_script(tmp_path / "shared" / "docker" / "docker-engine", 'echo "$ENGINE_IMAGES $ENGINE_DATA $*"; exit 7')
    done = run(script, folder_of_commands(tmp_path / "commands"))
    assert done.returncode == 7
    assert done.stdout == "python:3.11-slim disk python3 -m proof.prove\n"


@pytest.mark.parametrize(
    ("tests", "containers", "expected", "said"),
    [(0, 0, 0, ""), (0, SKIPPED, 0, "SKIPPED"), (0, 1, 1, "FAILED"), (0, 2, 2, "FAILED"), (2, 0, 2, "")],
)
def test_ci_runs_the_containers_after_the_tests_and_forgives_only_75(
    tmp_path: Path, tests: int, containers: int, expected: int, said: str
) -> None:
    shutil.copytree(PROJECT / ".ci", tmp_path / ".ci")
    commands = folder_of_commands(tmp_path / "commands")
    write_script(commands / "make", f'echo "make $*"; exit {tests}')
    write_script(tmp_path / "docker" / "compose-test", f"echo compose-test; exit {containers}")
    done = run(tmp_path / ".ci" / "run", commands)
    assert done.returncode == expected
    lines = done.stdout.splitlines()
    assert lines[:2] == (["make test"] if tests else ["make test", "compose-test"])
    assert said in done.stdout + done.stderr
    if not said:
        assert "compose-test was" not in done.stdout
