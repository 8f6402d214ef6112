"""docs/reliability.md: every test that it names exists, and its figures are those of the committed long run."""

import ast
import json
import re
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[2]
PAGE = (PROJECT / "docs" / "reliability.md").read_text()
FIGURES = json.loads((PROJECT / "docs" / "reliability.json").read_text())


def test_every_test_that_is_named_exists() -> None:
    named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", PAGE)
    assert len(named) >= 15
    for path, name in named:
        tree = ast.parse((PROJECT / path).read_text())
        assert name in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}, f"{path}::{name}"


def test_every_promise_names_its_test() -> None:
    promises = PAGE.partition("## Promises")[2].partition("\n## ")[0]
    rows = [line for line in promises.splitlines() if line.startswith("| ")][1:]
    assert len(rows) >= 15
    assert [row for row in rows if "::" not in row] == []


def test_the_figures_are_those_of_the_long_run() -> None:
    for name, figures in FIGURES.items():
        row = re.search(rf"^\| {re.escape(name)} \| (.*) \|$", PAGE, re.MULTILINE)
        assert row, name
        told = [cell.strip().replace(",", "") for cell in row[1].split("|")]
        names = ("kills", "requests", "images", "events_checked", "in_flight_at_kill_mean", "seconds", "differences")
        assert told == [str(figures[name]) for name in names]
