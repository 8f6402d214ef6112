"""What the one-shot services and the client decide, through the real `teacher` command where it acts."""

import gzip
import json
import os
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from docker import find_data, prepare_teacher, run_client
from shared.datasets import DatasetUnavailable, load_dataset, published
from tests.reliability.processes import Done, ForkServer

PLANNED = 120
TEACHER = ForkServer("tests.e2e.teacher_program:main")


class ForkedTeacher:
    """Stands for the module `subprocess`: the real `teacher`, but forked, which takes no second to start."""

    PIPE = subprocess.PIPE

    def run(self, words: list[str], *, check: bool, stdout: int | None = None) -> Done:
        assert (words[0], check) == ("teacher", False)
        return TEACHER.run(*words, env={"TEACHER_LEDGER": os.environ["TEACHER_LEDGER"]})


@pytest.fixture
def volumes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Folders in place of the volumes, and a ledger as the teacher has left it."""
    monkeypatch.setattr(prepare_teacher, "subprocess", ForkedTeacher())
    monkeypatch.setenv("TEACHER_LEDGER", f"sqlite:///{tmp_path / 'ledger.sqlite'}")
    demo = tmp_path / "demo.json"
    demo.write_text(json.dumps({"dataset": "digits", "config": "configs/demo-digits.toml", "planned": PLANNED}))
    monkeypatch.setattr(prepare_teacher, "DEMO", demo)
    monkeypatch.setattr(prepare_teacher, "SECRET", tmp_path / "api-key")
    monkeypatch.setattr(prepare_teacher, "NAME", tmp_path / "name")
    prepare_teacher.teacher("ledger", "init")
    return tmp_path


def keys() -> dict[str, tuple[int, int]]:
    """Name -> granted and spent."""
    return {
        key["name"]: (key["granted"], key["spent"]) for key in prepare_teacher.teacher_json("keys", "list")["keys"]
    }


def test_the_commands_are_the_installed_ones(volumes: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("TEACHER_LEDGER", f"sqlite:///{volumes / 'ledger.sqlite'}")
    prepare_teacher.teacher("usage")
    assert prepare_teacher.teacher_json("keys", "list") == {"keys": []}
    with pytest.raises(SystemExit) as ended:
        prepare_teacher.teacher_json("keys", "show", "--name", "nobody")
    assert ended.value.code == 2


def test_the_first_key_has_a_budget_of_exactly_the_plans_cost_and_is_kept(volumes: Path) -> None:
    prepare_teacher.prepare_key()
    secret = (volumes / "api-key").read_text()
    assert keys() == {"demo-1": (PLANNED, 0)}
    prepare_teacher.prepare_key()
    assert keys() == {"demo-1": (PLANNED, 0)}
    assert (volumes / "api-key").read_text() == secret


def test_a_key_that_lacks_budget_is_granted_what_a_run_costs(volumes: Path) -> None:
    prepare_teacher.prepare_key()
    demo = {"dataset": "digits", "config": "configs/demo-digits.toml", "planned": PLANNED + 30}
    (volumes / "demo.json").write_text(json.dumps(demo))
    prepare_teacher.prepare_key()
    assert keys() == {"demo-1": (PLANNED + 30, 0)}


@pytest.mark.parametrize("lost", ["api-key", "name"])
def test_a_lost_secret_and_a_revoked_key_are_replaced_by_a_new_key(volumes: Path, lost: str) -> None:
    prepare_teacher.prepare_key()
    secret = (volumes / "api-key").read_text()
    (volumes / lost).unlink()
    prepare_teacher.prepare_key()
    assert set(keys()) == {"demo-1", "demo-2"}
    assert (volumes / "api-key").read_text() != secret
    prepare_teacher.teacher("keys", "revoke", "--name", "demo-2")
    prepare_teacher.prepare_key()
    assert keys()["demo-3"] == (PLANNED, 0)


def write_fashion_mnist(root: Path) -> None:
    """Four tiny IDX files, one of them gzipped, as the publisher lays them out."""
    raw = root / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    for stem, images in (("train", 20), ("t10k", 10)):
        pixels = struct.pack(">4I", 0x0803, images, 28, 28) + bytes(images * 28 * 28)
        (raw / f"{stem}-images-idx3-ubyte.gz").write_bytes(gzip.compress(pixels))
        truth = np.arange(images, dtype=np.uint8) % 10
        (raw / f"{stem}-labels-idx1-ubyte").write_bytes(struct.pack(">2I", 0x0801, images) + truth.tobytes())


@pytest.fixture
def volume(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder as the data volume, and no other place to look in."""
    place = tmp_path / "volume"
    place.mkdir()
    monkeypatch.setattr(find_data, "DOWNLOAD_ROOT", place)
    monkeypatch.setattr(published, "DOWNLOAD_ROOT", place)
    monkeypatch.setattr(published, "PROJECT", tmp_path / "elsewhere" / "project")
    return place


def test_a_mounted_data_set_is_copied_into_the_volume(
    volume: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_fashion_mnist(tmp_path / "mounted")
    monkeypatch.setenv("DISTILL_DATA", str(tmp_path / "mounted"))
    assert find_data.find() == "fashion-mnist"
    assert find_data.find() == "fashion-mnist"  # again, over what is there
    monkeypatch.delenv("DISTILL_DATA")
    assert len(load_dataset("fashion-mnist", "train").truth_n) == 20
    assert len(load_dataset("fashion-mnist", "test").truth_n) == 10


def test_without_data_it_says_so_and_takes_digits(
    volume: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(name: str, *_: object) -> None:
        raise DatasetUnavailable(f"data set {name} cannot be downloaded")

    monkeypatch.setattr(published, "_download", refuse)
    (tmp_path / "mounted").mkdir()
    monkeypatch.setenv("DISTILL_DATA", str(tmp_path / "mounted"))
    assert find_data.find() == "digits"
    said = capsys.readouterr().out
    assert "cannot be downloaded" in said
    assert "scikit-learn's bundled digits instead" in said


class Commands:
    """Records what the client's walk asks `distill` for; ``resume`` is answered with a given exit code."""

    def __init__(self, resume: int) -> None:
        self.resume = resume
        self.asked: list[str] = []

    def __call__(self, *arguments: str) -> int:
        self.asked.append(arguments[0])
        return self.resume if arguments[0] == "resume" else 0


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(run_client, "RUNS", tmp_path)
    monkeypatch.setattr(run_client, "RUN", tmp_path / "compose")
    monkeypatch.setattr(run_client, "PREVIOUS", tmp_path / "compose.previous")
    return tmp_path


@pytest.mark.parametrize(
    ("left", "resume", "asked", "kept"),
    [
        (None, 0, ["run"], False),
        ("finished", 0, ["run"], True),
        ("cut short", 0, ["resume"], False),
        ("cut short", run_client.CANNOT_RESUME, ["resume", "run"], True),
    ],
)
def test_a_finished_run_is_kept_and_one_that_was_cut_short_is_resumed(
    runs: Path, monkeypatch: pytest.MonkeyPatch, left: str | None, resume: int, asked: list[str], kept: bool
) -> None:
    if left:
        (runs / "compose").mkdir()
        (runs / "compose" / "run.json").write_text(left)
    if left == "finished":
        (runs / "compose" / "summary.json").write_text("{}")
        (runs / "compose.previous").mkdir()  # an even earlier one, which goes
        (runs / "compose.previous" / "old").write_text("")
    commands = Commands(resume)
    monkeypatch.setattr(run_client, "distill_code", commands)
    run_client.buy_and_train("configs/demo-digits.toml")
    assert commands.asked == asked
    assert (runs / "compose.previous" / "run.json").exists() == kept
    assert not (runs / "compose.previous" / "old").exists()


def test_a_failed_resumption_is_the_clients_exit_code(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (runs / "compose").mkdir()
    commands = Commands(resume=4)
    monkeypatch.setattr(run_client, "distill_code", commands)
    with pytest.raises(SystemExit) as ended:
        run_client.buy_and_train("configs/demo-digits.toml")
    assert ended.value.code == 4
    assert commands.asked == ["resume"]
    assert (runs / "compose").exists()


def test_a_folder_of_somebody_else_is_named_with_what_to_set(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda *_: False)  # as root, every folder can be written
    with pytest.raises(SystemExit) as ended:
        run_client.require_writable()
    owner = runs.stat()
    assert f"set DISTILL_UID={owner.st_uid} and DISTILL_GID={owner.st_gid}" in str(ended.value.code)
