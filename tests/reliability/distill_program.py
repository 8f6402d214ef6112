"""What a fork server runs: the real `distill`, with all that a run needs imported before the fork."""

import distill_client.pipeline
import distill_client.teachers.native  # noqa: F401
from distill_client import cli


def main() -> None:
    """`distill ...`."""
    cli.main()
