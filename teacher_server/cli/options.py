"""Flags that several commands take."""

import os
import re
from pathlib import Path
from typing import Annotated

import typer

from teacher_server.errors import OperatorError

_PASSWORD_IN_URL = re.compile(r"://[^/]*?:[^@]*@|[?&][a-z]*password=", re.IGNORECASE)
LEDGER_HELP = "where the ledger is: sqlite:///FILE or postgresql://USER@HOST/DATABASE"


def keep_passwords_off_the_command_line(
    context: typer.Context, option: typer.CallbackParam, value: str | None
) -> str | None:
    """Every user of the machine can read every command line; an environment is its owner's. Raises OperatorError."""
    source = context.get_parameter_source(option.name or "")
    if value and source is not None and source.name == "COMMANDLINE" and _PASSWORD_IN_URL.search(value):
        raise OperatorError(
            "--ledger holds a password, which every user of this machine can read as long as the command runs. Set "
            "TEACHER_LEDGER in the environment instead, or leave it out and have it in PGPASSWORD or ~/.pgpass"
        )
    return value


Ledger = Annotated[
    str,
    typer.Option(envvar="TEACHER_LEDGER", help=LEDGER_HELP, callback=keep_passwords_off_the_command_line),
]
SigningKeyFile = Annotated[
    Path | None,
    typer.Option(
        envvar="TEACHER_SIGNING_KEY", help="file of the private signing key (default: beside a SQLite ledger)"
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="print one JSON object instead of text")]
Device = Annotated[str, typer.Option(help="cpu, cuda or cuda:N")]
TrustNetwork = Annotated[
    list[str] | None,
    typer.Option(
        "--trust-network", help="a module:function that a bundle may run to make its network; repeat for more"
    ),
]


def trusted_networks(flag: list[str] | None) -> tuple[str, ...]:
    """What ``--trust-network`` names, or TEACHER_TRUSTED_NETWORKS as the server reads it."""
    named = flag if flag is not None else os.environ.get("TEACHER_TRUSTED_NETWORKS", "").split(",")
    return tuple(name.strip() for name in named if name.strip())


def parse_image_shape(text: str, flag: str) -> tuple[int, int, int]:
    """Read HEIGHTxWIDTHxCHANNELS; raises OperatorError that names the flag."""
    if not (match := re.fullmatch(r"([1-9]\d{0,3})x([1-9]\d{0,3})x([13])", text)):
        raise OperatorError(
            f"{flag} is {text!r}; allowed is HEIGHTxWIDTHxCHANNELS with 1 or 3 channels, such as 224x224x3"
        )
    return int(match[1]), int(match[2]), int(match[3])
