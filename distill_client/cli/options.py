"""Arguments and flags that several commands have, and where what they print goes."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from distill_client.errors import ConfigError

if TYPE_CHECKING:
    import torch

ConfigFile = Annotated[Path, typer.Argument(help="the experiment, a TOML file", show_default=False)]
RunDir = Annotated[Path, typer.Argument(help="a run folder", show_default=False)]
Device = Annotated[str, typer.Option(help="where the networks run: cpu, cuda or cuda:N")]
AsJson = Annotated[bool, typer.Option("--json", help="print one JSON object instead of text")]
StrictPool = Annotated[
    bool, typer.Option("--strict-pool", help="stop, rather than warn, where the pool does not fit the teacher")
]
TeacherUrl = Annotated[
    str | None, typer.Option("--teacher", help="address of the teacher server, or a teacher's file (*.toml)")
]

out = Console()
err = Console(stderr=True)


def say(line: str) -> None:
    """A line for people, on standard error, as it is."""
    err.print(line, highlight=False, markup=False, soft_wrap=True)


def require_device(name: str) -> "torch.device":
    """The device of that name. Raises ConfigError when there is none on this machine."""
    import torch  # two seconds that a plan or an audit need not wait

    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ConfigError(f"device is {name!r}; allowed are cpu, cuda and cuda:N") from error
    if device.type not in ("cpu", "cuda"):
        raise ConfigError(f"device is {name!r}; allowed are cpu, cuda and cuda:N")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ConfigError(f"device is {name!r}; this machine has {torch.cuda.device_count()} CUDA devices")
    return device
