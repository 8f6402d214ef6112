"""Flags that several commands take."""

from typing import Annotated

import typer

Ledger = Annotated[str, typer.Option(envvar="TEACHER_LEDGER", help="where the ledger is: sqlite:///FILE")]
AsJson = Annotated[bool, typer.Option("--json", help="print one JSON object instead of text")]
Device = Annotated[str, typer.Option(help="cpu, cuda or cuda:N")]
