"""docs/teachers.md names every key that a teacher's file may have, every recipe, and every vendor of the signals."""

import re
import tomllib
import typing
from pathlib import Path

import pytest
from pydantic import BaseModel, TypeAdapter

from distill_client.teachers.adapters.custom_http.file import ItemSignal
from distill_client.teachers.adapters.kinds import AnyTeacherFile
from distill_client.teachers.manners.signals import VENDORS, Signal

PROJECT = Path(__file__).resolve().parents[2]
PAGE = (PROJECT / "docs" / "teachers.md").read_text()
KINDS: tuple[type[BaseModel], ...] = typing.get_args(typing.get_args(AnyTeacherFile)[0])


def keys(model: type[BaseModel]) -> list[str]:
    found = []
    for name, field in model.model_fields.items():
        inner = field.annotation
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            found += [f"{name}.{key}" for key in inner.model_fields]
        else:
            found.append(name)
    return found


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_every_key_of_every_kind_is_on_the_page(kind: type[BaseModel]) -> None:
    assert [key for key in keys(kind) if f"`{key}`" not in PAGE] == []


@pytest.mark.parametrize("model", [Signal, ItemSignal])
def test_every_key_of_a_signal_is_on_the_page(model: type[BaseModel]) -> None:
    assert [key for key in model.model_fields if key != "vendor" and f"`{key}`" not in PAGE] == []


def test_every_recipe_and_every_vendor_of_the_table_is_on_the_page() -> None:
    assert [
        path.name for path in (PROJECT / "configs" / "teachers").glob("*.toml") if f"`{path.name}`" not in PAGE
    ] == []
    for vendor in {signal.vendor for signal in VENDORS}:
        assert re.search(rf"^\| {vendor} \| ", PAGE, re.MULTILINE), vendor


def test_every_example_of_a_whole_file_can_be_read() -> None:
    files = TypeAdapter(AnyTeacherFile)
    for block in re.findall(r"```toml\n(.*?)```", PAGE, re.DOTALL):
        content = tomllib.loads(block)
        if "kind" in content:
            files.validate_python(content)
