"""What the operator is told: results on stdout, notes and progress on stderr, mistakes as one line."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import typer
from rich.console import Console

from shared.datasets import DatasetUnavailable
from teacher_server.errors import OperatorError

out = Console()
progress_out = Console(stderr=True)


def print_report(report: dict[str, Any], text: str, *, as_json: bool) -> None:
    """Print a command's result: ``report`` as one JSON object, or ``text``."""
    typer.echo(json.dumps(report) if as_json else text)


@contextmanager
def operator_mistakes() -> Iterator[None]:
    """Turn a bad bundle, data set, device or recipe, each of which says what is allowed, into an OperatorError."""
    try:
        yield
    except (ValueError, DatasetUnavailable, OSError) as error:
        raise OperatorError(str(error)) from error
