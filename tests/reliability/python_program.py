"""What a fork server runs: Python text, its first argument, with all that an owner's commands need imported before.

Stands for ``python -c TEXT ARGUMENT...``, without the seconds that torch takes.
"""

import sys

import sklearn.datasets  # noqa: F401
import torch._dynamo  # noqa: F401 - which an optimiser imports

import teacher_server.app
import teacher_server.cli
import teacher_server.training.training  # noqa: F401


def main() -> None:
    text, sys.argv[:] = sys.argv[1], ["-c", *sys.argv[2:]]
    exec(compile(text, "<text>", "exec"), {"__name__": "__main__"})  # noqa: S102 - the test's own text
