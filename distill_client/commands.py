"""Commands that messages suggest: safe to copy, whatever the folder is called."""

import shlex
from pathlib import Path


def resume_command(path: Path) -> str:
    """What to type to go on with the run in ``path``."""
    return f"distill resume {shlex.quote(str(path))}"
