"""The card that goes with a student: card.json for programs, README.md for people."""

import json
from pathlib import Path
from typing import Any

from distill_client.durable import write_durably


def write_card(folder: Path, content: dict[str, Any]) -> None:
    """Write both forms beside the weights; each is whole or as it was. Raises OSError."""
    write_durably(folder / "card.json", (json.dumps(content, indent=2) + "\n").encode())
    write_durably(folder / "README.md", render_card(content).encode())


def render_card(content: dict[str, Any]) -> str:
    """The card as Markdown."""
    teacher, size = content["distilled_from"], content["input"]
    phases = ", ".join(f"{count:,} {phase}" for phase, count in content["answers_by_phase"].items())
    lines = [
        f"# {_text(content['name'])}",
        "",
        f"A student (`{_text(content['network'])}`), distilled from a teacher that could only be queried.",
        "",
        "| | |",
        "|---|---|",
        f"| teacher | {_text(teacher['name'])}, version {_text(teacher['version'])}; it disclosed "
        f"{_text(content['disclosure'])} |",
        *_row("the teacher's images", content["asked_as"]),
        *_row("permission", content["permission"]),
        f"| learnt by | {_text(content['learnt_by'])} |",
        f"| real images | {_text(content['real_images'])} |",
        *_row("warning", "; ".join(content["pool_warnings"]) or None),
        f"| budget | {content['budget_images']:,} images |",
        f"| answers bought | {content['answers_bought']:,} ({phases}) |",
        *_row("bought in rounds", (content.get("rounds") or {}).get("sentence")),
        f"| accuracy | {_fraction(content['test_accuracy'])}{_on(content['test_dataset'])}; the teacher's, as its "
        f"owner measured it: {_fraction(content['teacher_test_accuracy'])} |",
        f"| agreement with the teacher | {_fraction(content['agreement_with_teacher'])} "
        f"({content['agreement_images']:,} images: {content['agreement_on']}) |",
        "",
        "## What it cost",
        "",
        _text(content["audit"]),
        "",
        *_receipt(content["last_receipt"]),
        "## Use",
        "",
        f"`{content['weights']}` holds the weights. Input: {size['height']} x {size['width']} x {size['channels']}, "
        f"{size['scaled']}; {_text(content['preprocessing'])}. Output: {content['outputs']}. Classes, in order: "
        + ", ".join(_text(name) for name in content["classes"])
        + ".",
        "",
        f"Run {content['run_id']}, configuration {content['config_digest']}. The same for programs: `card.json`.",
    ]
    return "\n".join(lines) + "\n"


def _row(name: str, value: str | None) -> list[str]:
    return [] if value is None else [f"| {name} | {_text(value)} |"]


def _receipt(receipt: dict[str, Any] | None) -> list[str]:
    if receipt is None:
        return []
    return [
        "The last receipt, signed by the teacher's ledger; it chains to every charge before it:",
        "",
        "```json",
        json.dumps(receipt, indent=1),
        "```",
        "",
    ]


def _text(value: object) -> str:
    """Names come from others: on one line, and no part of a table or of HTML."""
    flat = " ".join(str(value).split())
    return flat.replace("&", "&amp;").replace("<", "&lt;").replace("|", "\\|").replace("`", "'")


def _fraction(value: float | None) -> str:
    return "not measured" if value is None else f"{value:.2%}"


def _on(dataset: str | None) -> str:
    return "" if dataset is None else f" on the test set of {_text(dataset)}"
