"""docs/results.md and the README's table from the committed results: `.venv/bin/python benchmarks/results_page.py`.

So is what `distill plan` tells people to expect, `distill_client/measured_curves.json`.

Writes what stands between `<!-- generated: NAME -->` and `<!-- end -->`, and the pictures in docs/curves/; prose
around it stays. With --check nothing is written, and it ends with 1 where something would be.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from benchmarks.reproduction.cases import PROJECT
from benchmarks.reproduction.caveats import caveats, coverage
from benchmarks.reproduction.curves import curve_name, draw_curve, points_of
from benchmarks.reproduction.expectations import measured_curves
from benchmarks.reproduction.outcomes import Section, read_sections
from benchmarks.reproduction.published import TARGETS
from benchmarks.reproduction.tables import (
    case_table,
    curve_table,
    curves,
    main_tables,
    proof,
    readme_table,
    target_table,
)
from benchmarks.reproduction.trials import read_trials, trial_table
from distill_client.expectation import TABLE

README, PAGE, CURVES = PROJECT / "README.md", PROJECT / "docs" / "results.md", PROJECT / "docs" / "curves"
_BLOCK = re.compile(r"(<!-- generated: (?P<name>[a-z-]+)[^\n]*-->\n).*?(<!-- end -->)", re.DOTALL)


class PageError(Exception):
    """A page has a block that nobody makes, or lacks one; the message names it."""


def main(
    check: Annotated[bool, typer.Option("--check", help="write nothing; end with 1 if it differs")] = False,
) -> None:
    """Write, or compare, the tables and pictures."""
    sections = read_sections()
    stale = [path for path, text in pages(sections).items() if path.read_text(encoding="utf-8") != text]
    wanted = pictures(sections)
    missing = {name: drawn for name, drawn in wanted.items() if not (CURVES / name).exists()}
    left = [path for path in sorted(CURVES.glob("*.svg")) if path.name not in wanted]
    if check:
        names = [str(path.relative_to(PROJECT)) for path in [*stale, *(CURVES / name for name in missing), *left]]
        if names:
            raise SystemExit(f"results_page: not as the results have it: {', '.join(names)}")
        return
    for path in stale:
        path.write_text(pages(sections)[path], encoding="utf-8")
    for name, (dataset, student) in missing.items():
        draw_curve(CURVES / name, dataset, student, points_of(curves(sections)[dataset, student]))
    for path in left:
        path.unlink()


def pages(sections: Sequence[Section]) -> dict[Path, str]:
    """Each page's text as the results have it. Raises PageError."""
    tables = {
        "proof": proof(sections),
        "caveats": caveats(sections),
        "coverage": coverage(sections),
        "main": main_tables(sections),
        "curves": _curves_text(sections),
        "cases": case_table(sections),
        "targets": target_table(sections),
        "trials": trial_table(read_trials()),
    }
    return {
        PAGE: filled(PAGE, tables),
        README: filled(README, {"results": _readme_text(sections)}),
        TABLE: measured_curves(sections),
    }


def pictures(sections: Sequence[Section]) -> dict[str, tuple[str, str]]:
    """The file names of all pictures, with the data set and the student each is of."""
    found = {}
    for (dataset, student), outcomes in curves(sections).items():
        if points := points_of(outcomes):
            found[curve_name(dataset, student, points)] = (dataset, student)
    return found


def filled(path: Path, tables: dict[str, str]) -> str:
    """The page with each of its blocks replaced. Raises PageError unless they are exactly ``tables``."""
    text = path.read_text(encoding="utf-8")
    names = [match["name"] for match in _BLOCK.finditer(text)]
    if sorted(names) != sorted(tables):
        raise PageError(f"{path} has the blocks {names}; it is to have {sorted(tables)}, each once")
    return _BLOCK.sub(lambda block: f"{block[1]}{tables[block['name']]}\n{block[3]}", text)


def _readme_text(sections: Sequence[Section]) -> str:
    """The first of the pictures, where there is one, and the table."""
    shown = [
        f"![Accuracy of {TARGETS[of].title} against answers bought](docs/curves/{name})\n"
        for name, of in pictures(sections).items()
    ]
    return "\n".join([*shown[:1], readme_table(sections)])


def _curves_text(sections: Sequence[Section]) -> str:
    parts = []
    for (dataset, student), outcomes in curves(sections).items():
        title = TARGETS[dataset, student].title
        parts.append(f"### {title}, by answers")
        if points := points_of(outcomes):
            name = curve_name(dataset, student, points)
            parts.append(f"![Accuracy of {title} against answers bought](curves/{name})")
        parts.append(curve_table(outcomes))
    return "\n\n".join(parts)


if __name__ == "__main__":
    try:
        typer.run(main)
    except PageError as error:
        raise SystemExit(f"results_page: {error}") from None
