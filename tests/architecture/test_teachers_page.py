"""docs/teachers.md: every file in it is one that the client takes, and every key of the adapters is explained."""

import re
from pathlib import Path

import pytest

from distill_client.teachers.adapters.huggingface import HuggingFaceFile
from distill_client.teachers.adapters.kinds import load_teacher_file, make_adapter
from distill_client.teachers.adapters.openai_chat import OpenAIChatFile
from distill_client.teachers.adapters.tf_serving import TfServingFile
from distill_client.teachers.adapters.torchserve import TorchServeFile
from distill_client.teachers.adapters.v2_file import OpenInferenceFile
from distill_client.teachers.teacher_file import TeacherFile

PAGE = (Path(__file__).parents[2] / "docs" / "teachers.md").read_text(encoding="utf-8")
BLOCKS = [block for block in re.findall(r"```toml\n(.*?)```", PAGE, re.DOTALL) if re.search(r"(?m)^kind = ", block)]
KINDS = (OpenInferenceFile, HuggingFaceFile, TfServingFile, TorchServeFile, OpenAIChatFile)


def test_each_kind_has_a_file_to_copy() -> None:
    kinds = {kind for block in BLOCKS for kind in re.findall(r'(?m)^kind = "(.*)"', block)}
    assert kinds >= {"open-inference", "huggingface", "tf-serving", "torchserve", "openai-chat"}


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: block.splitlines()[0])
def test_files_in_the_page_are_taken(block: str, tmp_path: Path) -> None:
    file = tmp_path / "teacher.toml"
    file.write_text(block)
    assert make_adapter(load_teacher_file(file)).capabilities.budget.granted > 0


@pytest.mark.parametrize("kind", [TeacherFile, *KINDS], ids=lambda kind: kind.__name__)
def test_every_key_is_explained(kind: type[TeacherFile]) -> None:
    explained = {key for row in re.findall(r"(?m)^\| (`[^|]*) \|", PAGE) for key in re.findall(r"`(\w+)`", row)}
    assert set(kind.model_fields) <= explained
