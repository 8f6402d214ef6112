"""--help says all that is written for it: no word is taken for markup, and lines are filled."""

import inspect
import itertools
import re
from collections.abc import Iterator
from typing import Any

import pytest
from typer.main import get_command
from typer.testing import CliRunner

from distill_client.cli import app


def commands(command: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    yield path, command
    for name, below in getattr(command, "commands", {}).items():
        yield from commands(below, (*path, name))


def words(text: str) -> str:
    return " ".join(re.sub("[│╭╮╰╯─]", " ", text.replace("`", "")).split())


@pytest.mark.parametrize(("path", "command"), list(commands(get_command(app))))
def test_every_paragraph_is_shown_word_by_word(path: tuple[str, ...], command: Any) -> None:
    shown = CliRunner().invoke(app, [*path, "--help"], env={"COLUMNS": "80"}).output
    paragraphs = inspect.cleandoc(command.help or "").split("\n\n")
    assert paragraphs[0]
    assert [paragraph for paragraph in paragraphs if words(paragraph) not in words(shown)] == []
    lines = [line.strip() for line in shown.partition("╭")[0].splitlines()]
    starved = [
        line
        for line, after in itertools.pairwise(lines)
        if line and after and len(line) + 1 + len(after.split()[0]) <= 78
    ]
    assert starved == [], "the next line's first word would have fitted"
