"""`teacher bundle import` and `check` as the owner types them: what is printed, the exit codes, no tracebacks."""

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from teacher_server.cli import app
from teacher_server.errors import OperatorError
from tests.teacher_server.teachers.models import CLASSES, export, small_network

runner = CliRunner()


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("owner") / "My Model.pt2"
    file.write_bytes(export(small_network()))
    return file


@pytest.fixture
def classes(tmp_path: Path) -> Path:
    path = tmp_path / "classes.txt"
    path.write_text("\n".join(CLASSES) + "\n\n", encoding="utf-8-sig")
    return path


def words(program: Path, classes: Path, *more: str) -> list[str]:
    told = ["--classes", str(classes), "--input", "16x16x3", "--mean", "0.5", "--std", "0.2,0.25,0.3"]
    return ["bundle", "import", str(program), *told, *more]


def mistake(*arguments: str) -> str:
    result = runner.invoke(app, arguments)
    assert isinstance(result.exception, OperatorError), (result.output, result.exception)
    return str(result.exception)


def test_import_says_what_it_made(program: Path, classes: Path, tmp_path: Path) -> None:
    out = tmp_path / "bundle"
    result = runner.invoke(app, words(program, classes, "--out", str(out)))
    assert result.exit_code == 0, result.output
    first, second, third = result.stdout.splitlines()
    assert first == f"{out}: my-model version 1, torch-export, 16x16x3, 4 classes"
    assert second == "outputs: logits (detected), a softmax is added"
    assert third.startswith("tried on 12 images, alone and together: probabilities differ by up to ")
    text = (out / "teacher.toml").read_text()
    assert 'format = "torch-export"' in text
    assert "0.25" in text


def test_import_and_check_print_one_object(program: Path, classes: Path, tmp_path: Path) -> None:
    out = tmp_path / "bundle"
    made: dict[str, Any] = json.loads(
        runner.invoke(
            app, words(program, classes, "--out", str(out), "--name", "n", "--version", "v", "--json")
        ).stdout
    )
    checked: dict[str, Any] = json.loads(runner.invoke(app, ["bundle", "check", str(out), "--json"]).stdout)
    assert (made["name"], made["version"], made["outputs_were"], made["notes"]) == ("n", "v", "detected", [])
    assert checked["sound"] is True
    for field in ("format", "input", "resize", "classes", "outputs", "sha256", "sample_images", "bundle"):
        assert checked[field] == made[field]


def test_check_names_what_is_wrong_and_ends_with_2(program: Path, classes: Path, tmp_path: Path) -> None:
    out = tmp_path / "bundle"
    runner.invoke(app, words(program, classes, "--out", str(out)))
    assert runner.invoke(app, ["bundle", "check", str(out)]).stdout.startswith(f"{out}: sound; my-model version 1")
    (out / "program.pt2").unlink()
    says = f"{out / 'program.pt2'}: not a file, but weights.file in teacher.toml names it"
    assert mistake("bundle", "check", str(out)) == says
    result = runner.invoke(app, ["bundle", "check", str(out), "--json"])
    assert (result.exit_code, json.loads(result.stdout)) == (2, {"bundle": str(out), "sound": False, "fault": says})
    assert mistake("bundle", "check", str(tmp_path / "none")).startswith(f"{tmp_path / 'none'}: not a folder")


def test_classes_may_be_a_json_list(program: Path, tmp_path: Path) -> None:
    listed = tmp_path / "classes.json"
    listed.write_text(json.dumps(list(CLASSES)))
    out = tmp_path / "bundle"
    assert runner.invoke(app, words(program, listed, "--out", str(out))).exit_code == 0
    for content, says in (
        ('["cat"', "begins like a JSON list and is none"),
        ('["cat", 7]', "is not a list of strings"),
        ("cat\n\ndog\nowl", "classes.1: "),
        ("cat", "two classes or more are allowed"),
    ):
        listed.write_text(content)
        assert says in mistake(*words(program, listed, "--out", str(tmp_path / "other")))
    listed.write_bytes(b"\xff\xfe")
    assert "is not UTF-8 text" in mistake(*words(program, listed))
    assert "No such file" in mistake(*words(program, tmp_path / "absent.txt"))


@pytest.mark.parametrize(
    ("flag", "value", "says"),
    [
        ("--input", "16x16", "input is '16x16'; allowed is HEIGHTxWIDTHxCHANNELS"),
        ("--input", "16x16x4", "with 1 or 3 channels"),
        ("--mean", "grey", "mean is 'grey'; allowed are numbers in 0..1"),
        ("--std", "0.1,0.2", "std has 2 values; allowed are 1 or 3, one per channel"),
        ("--std", "0", "input.std.0: Input should be greater than 0"),
        ("--mean", "nan", "input.mean.0: "),
        ("--device", "tpu", "device is 'tpu'"),
        ("--version", "", "version: "),
    ],
)
def test_bad_flags_are_named(program: Path, classes: Path, tmp_path: Path, flag: str, value: str, says: str) -> None:
    out = tmp_path / "bundle"
    assert says in mistake(*words(program, classes, "--out", str(out), flag, value))
    assert not out.exists()


def test_as_a_shell_sees_a_pickle(tmp_path: Path, classes: Path) -> None:
    """Exit code 2, the way out on stderr, nothing on stdout; the one message of several lines."""
    import sys

    (tmp_path / "weights.pth").write_bytes(b"\x80\x02}q\x00.")
    command = [sys.executable, "-c", "from teacher_server.cli import main; main()"]
    done = subprocess.run(
        [*command, *words(tmp_path / "weights.pth", classes)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"teacher: {tmp_path / 'weights.pth'}: a pickle. ")
    assert "Traceback" not in done.stderr


def test_classes_that_are_not_there_are_named(program: Path, tmp_path: Path) -> None:
    result = runner.invoke(app, words(program, tmp_path / "absent.txt"))
    assert result.exit_code != 0
    assert f"classes: {tmp_path / 'absent.txt'} cannot be read (No such file or directory)" in str(result.exception)
