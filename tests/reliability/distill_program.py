"""What a fork server runs: the real `distill`, with all that a run needs imported before the fork."""

import matplotlib.pyplot  # noqa: F401
import sklearn.datasets  # noqa: F401
import torch._dynamo  # noqa: F401 - which an optimiser imports
import torchvision  # noqa: F401

import distill_client.pipeline
import distill_client.teachers.native.teacher  # noqa: F401
from distill_client import cli


def main() -> None:
    """`distill ...`."""
    cli.main()
