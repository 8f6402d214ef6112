"""What starts the programs of these tests."""

import pytest

from tests.reliability.processes import ForkServer


@pytest.fixture(scope="session")
def teacher_forks() -> ForkServer:
    """Starts `teacher` commands."""
    return ForkServer("tests.reliability.teacher_program:main")


@pytest.fixture(scope="session")
def distill_forks() -> ForkServer:
    """Starts `distill` commands."""
    return ForkServer("tests.reliability.distill_program:main")


@pytest.fixture(scope="session")
def crowd_forks() -> ForkServer:
    """Starts client processes of a race."""
    return ForkServer("tests.reliability.crowd_program:main")
