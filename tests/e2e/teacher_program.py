"""What a fork server runs: the real `teacher`, with all that serving needs imported before the fork."""

import uvicorn  # noqa: F401

import teacher_server.app
import teacher_server.teachers.classifier
import teacher_server.teachers.teacher  # noqa: F401
from teacher_server import cli


def main() -> None:
    """`teacher ...`."""
    cli.main()
