"""The owner's answer file: written whole, read without trust."""

import io
import zipfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from shared.wire.teacher_answers import TeacherAnswers, read_teacher_answers, write_teacher_answers


def make_answers(**changes: Any) -> TeacherAnswers:
    fields: dict[str, Any] = {
        "teacher": "digits-lenet5",
        "version": "1",
        "dataset": "digits",
        "split": "test",
        "images_digest": "ab" * 32,
        "probabilities_nk": np.array([[0.1234567, 0.8765433], [1.0, 0.0]], np.float32),
    }
    return TeacherAnswers(**{**fields, **changes})


def npy(array: Any, *, allow_pickle: bool = False) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.asarray(array), allow_pickle=allow_pickle)
    return buffer.getvalue()


def members(**changes: bytes | None) -> dict[str, bytes]:
    """The members of a sound file with some exchanged, or left out where None."""
    answers = make_answers()
    content: dict[str, bytes | None] = {name: npy(getattr(answers, name)) for name in vars(answers)}
    return {f"{name}.npy": value for name, value in (content | changes).items() if value is not None}


def write_zip(path: Path, content: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> None:
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, value in content.items():
            archive.writestr(name, value)


def test_answers_come_back_rounded_as_on_the_wire(tmp_path: Path) -> None:
    answers, path = make_answers(), tmp_path / "folder" / "answers"

    write_teacher_answers(path, answers)
    read = read_teacher_answers(path)

    assert (read.teacher, read.version, read.dataset, read.split) == ("digits-lenet5", "1", "digits", "test")
    assert read.images_digest == answers.images_digest
    assert read.probabilities_nk.dtype == np.float32
    np.testing.assert_array_equal(read.probabilities_nk, np.round(answers.probabilities_nk, 6))
    assert [file.name for file in path.parent.iterdir()] == ["answers"]


def test_numpy_reads_the_file_without_pickle(tmp_path: Path) -> None:
    write_teacher_answers(tmp_path / "answers.npz", make_answers())
    with np.load(tmp_path / "answers.npz", allow_pickle=False) as archive:
        assert str(archive["teacher"]) == "digits-lenet5"
        assert archive["probabilities_nk"].shape == (2, 2)


def test_an_older_file_is_replaced_as_a_whole(tmp_path: Path) -> None:
    path = tmp_path / "answers.npz"
    write_teacher_answers(path, make_answers())
    write_teacher_answers(path, make_answers(version="2"))
    assert read_teacher_answers(path).version == "2"


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"teacher": ""}, "teacher is ''; allowed"),
        ({"version": "x" * 201}, "version is 'x+'; allowed are 1 to 200"),
        ({"dataset": "a\nb"}, r"dataset is 'a\\nb'"),
        ({"images_digest": "ab"}, "images_digest is 'ab'; allowed are 64"),
        ({"images_digest": "AB" * 32}, "images_digest is 'ABAB"),
        ({"probabilities_nk": np.zeros((0, 2), np.float32)}, r"shape \(0, 2\)"),
        ({"probabilities_nk": np.ones((2, 1), np.float32)}, r"shape \(2, 1\)"),
        ({"probabilities_nk": np.ones(2, np.float32)}, r"shape \(2,\)"),
        ({"probabilities_nk": np.array([[0.5, 0.5], [np.nan, 1]], np.float32)}, "row 1 is"),
        ({"probabilities_nk": np.array([[0.5, 0.4]], np.float32)}, "row 0 is"),
        ({"probabilities_nk": np.array([[1.5, -0.5]], np.float32)}, "row 0 is"),
    ],
)
def test_answers_that_are_none_are_refused(changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        make_answers(**changes)


class Bomb:
    exploded = False

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return (setattr, (Bomb, "exploded", True))


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"teacher": None}, "the members are"),
        ({"extra": npy(1)}, "the members are"),
        ({"teacher": npy(7)}, "teacher is int64"),
        ({"teacher": npy(["a", "b"])}, "teacher is <U1"),
        ({"teacher": b"\x93NUMPY"}, "teacher is not a whole array"),
        ({"teacher": b""}, "teacher is not a whole array"),
        ({"version": npy("")}, "version is ''"),
        ({"probabilities_nk": npy(np.array([[0.5, 0.5]]))}, "dtype float64; allowed is float32"),
        ({"probabilities_nk": npy(np.array([[0.5, 0.6]], np.float32))}, "row 0"),
        ({"probabilities_nk": npy(np.eye(2, dtype=np.float32))[:-1]}, "probabilities_nk is not a whole array"),
        (
            {"probabilities_nk": npy(np.array([Bomb()], dtype=object), allow_pickle=True)},
            "not a whole array of plain",
        ),
        (
            {"probabilities_nk": npy(np.eye(2, dtype=np.float32)).replace(b"(2, 2), }     ", b"(2, 2000000000)}")},
            "probabilities_nk is not a whole array",
        ),
    ],
)
def test_hostile_members_are_refused_by_name(tmp_path: Path, changes: dict[str, Any], reason: str) -> None:
    path = tmp_path / "answers.npz"
    write_zip(path, members(**changes))
    with pytest.raises(ValueError, match=reason) as caught:
        read_teacher_answers(path)
    assert str(path) in str(caught.value)
    assert not Bomb.exploded


def test_compressed_members_are_refused(tmp_path: Path) -> None:
    write_zip(tmp_path / "answers.npz", members(), zipfile.ZIP_DEFLATED)
    with pytest.raises(ValueError, match="compressed"):
        read_teacher_answers(tmp_path / "answers.npz")


@pytest.mark.parametrize("content", [b"", b"PK", b"no zip at all"])
def test_files_that_are_no_archive_are_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "answers.npz").write_bytes(content)
    with pytest.raises(ValueError, match=r"not a whole \.npz file"):
        read_teacher_answers(tmp_path / "answers.npz")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"nowhere.npz: cannot be read \(No such file"):
        read_teacher_answers(tmp_path / "nowhere.npz")


@settings(
    deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)  # the one file is written anew each time
@given(st.data())
def test_a_damaged_file_is_refused_or_sound(tmp_path: Path, data: st.DataObject) -> None:
    path = tmp_path / "answers.npz"
    write_teacher_answers(path, make_answers())
    content = bytearray(path.read_bytes())
    for position in data.draw(st.lists(st.integers(0, len(content) - 1), min_size=1, max_size=4)):
        content[position] = data.draw(st.integers(0, 255))
    path.write_bytes(content[: data.draw(st.integers(0, len(content)))] if data.draw(st.booleans()) else content)
    with suppress(ValueError):
        assert read_teacher_answers(path).probabilities_nk.ndim == 2
