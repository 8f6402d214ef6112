"""Fork servers, one each for all tests of a process."""

from collections.abc import Iterator

import pytest

from tests.reliability.processes import ForkServer


@pytest.fixture(scope="session")
def teacher_forks() -> Iterator[ForkServer]:
    """Starts `teacher` commands."""
    with ForkServer("tests.reliability.teacher_program:main") as forks:
        yield forks


@pytest.fixture(scope="session")
def distill_forks() -> Iterator[ForkServer]:
    """Starts `distill` commands."""
    with ForkServer("tests.reliability.distill_program:main") as forks:
        yield forks


@pytest.fixture(scope="session")
def crowd_forks() -> Iterator[ForkServer]:
    """Starts client processes of a race."""
    with ForkServer("tests.reliability.crowd_program:main") as forks:
        yield forks
