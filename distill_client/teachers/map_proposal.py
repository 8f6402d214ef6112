"""A label map proposed from the names that a teacher answered with, and why; for a person to read and mend."""

import difflib
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import tomli_w

from distill_client.teachers.label_map import folded
from shared.counting import counted

_ALIKE = 0.8  # of difflib's ratio
_NUMBER = re.compile(r"(?:label|class)?[ _-]?([0-9]{1,6})", re.IGNORECASE)


@dataclass(frozen=True)
class Proposed:
    """What a name of theirs may be; ``ours`` is None where nothing suggests a class. ``reason`` is for people."""

    theirs: str
    ours: str | None
    reason: str


def propose(
    came: Counter[str], classes: Sequence[str], best_by_truth: Mapping[str, Counter[str]] | None = None
) -> list[Proposed]:
    """One entry per name that ``came``, the commonest first.

    ``best_by_truth``: for labelled images, how often each name was the best answer to each true class.
    """
    return [_propose(name, count, classes, (best_by_truth or {}).get(name)) for name, count in came.most_common()]


def _propose(name: str, count: int, classes: Sequence[str], truths: Counter[str] | None) -> Proposed:
    seen = f"in {counted(count, 'answer')}"
    by_folded = {folded(each): each for each in classes}
    if name in classes:
        return Proposed(name, name, f"the same name, {seen}")
    if (ours := by_folded.get(folded(name))) is not None:
        return Proposed(name, ours, f"the same but for case and spaces, {seen}")
    if truths:
        (ours, times), together = truths.most_common(1)[0], sum(truths.values())
        if times > together / 2:
            return Proposed(
                name,
                ours,
                f"of the images it was the best answer to, {times} of {together} are of that class; {seen}",
            )
    number = _NUMBER.fullmatch(name.strip())
    if number and int(number[1]) < len(classes):
        return Proposed(name, classes[int(number[1])], f"by its number, if they count from 0; {seen}")
    alike = difflib.get_close_matches(folded(name), by_folded, n=1, cutoff=_ALIKE)
    if alike:
        return Proposed(name, by_folded[alike[0]], f"spelt alike: look at it; {seen}")
    return Proposed(name, None, seen)


def as_toml(proposals: Sequence[Proposed], classes: Sequence[str], images: int) -> str:
    """The proposal as TOML: what suggests itself, and as comments what does not, to be filled in or left."""
    lines = [f"# Proposed from the answers to {images} images: read it before you use it. Our classes:"]
    lines += [f"#   {_toml('x', name).split(' = ', 1)[1]}" for name in classes]
    lines.append("[label_map]")
    for each in proposals:
        if each.ours is not None:
            lines.append(f"{_toml(each.theirs, each.ours)}  # {each.reason}")
    unknown = [each for each in proposals if each.ours is None]
    if unknown:
        lines.append("# Nothing suggests itself for these; without an entry, `unmapped` says what becomes of them:")
        lines += [f"# {_toml(each.theirs, '?')}  # {each.reason}" for each in unknown]
    return "\n".join(lines) + "\n"


def _toml(key: str, value: str) -> str:
    return tomli_w.dumps({key: value}).strip()
