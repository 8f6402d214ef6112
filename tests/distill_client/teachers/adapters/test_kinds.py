"""A teacher's file is read by its kind, and a mistake in it is named by its key."""

from pathlib import Path

import pytest
from pydantic import TypeAdapter, ValidationError

from distill_client.errors import ConfigError
from distill_client.teachers.adapters.kinds import KINDS, AnyTeacherFile, load_teacher_file


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ('kind = "custom-htpp"', "kind is 'custom-htpp'; allowed are custom-http, huggingface, open-inference, "),
        ("", "kind is missing; allowed are "),
        ('kind = ["huggingface"]', "kind is ['huggingface']; allowed are "),
        ('kind = "huggingface"\nmax_querys = 3', "teacher.toml: max_querys: Extra inputs"),
    ],
)
def test_a_mistake_in_a_teachers_file_is_named_by_its_key(tmp_path: Path, given: str, said: str) -> None:
    path = tmp_path / "teacher.toml"
    path.write_text(
        f'{given}\nname = "theirs"\nclasses = ["a", "b"]\nimage_size = "8x8x1"\nmax_queries = 9\nurl = "http://x"\n'
    )
    with pytest.raises(ConfigError) as refused:
        load_teacher_file(path)
    assert said in str(refused.value)
    assert "given: {" not in str(refused.value), "the file is not repeated"


def test_every_kind_that_the_message_names_can_be_had() -> None:
    for kind in KINDS:
        with pytest.raises(ValidationError) as wrong:
            TypeAdapter(AnyTeacherFile).validate_python({"kind": kind})
        assert {fault["type"] for fault in wrong.value.errors()} == {"missing"}
    with pytest.raises(ValidationError) as unknown:
        TypeAdapter(AnyTeacherFile).validate_python({"kind": "none of them"})
    assert all(f"'{kind}'" in str(unknown.value) for kind in KINDS)
    assert str(unknown.value).partition("expected tags")[2].partition("[type")[0].count(",") == len(KINDS) - 1
