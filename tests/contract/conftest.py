"""A server and its ledger for every test that wants one."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.contract.world import World, serving


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with serving(tmp_path / "ledger.db") as world:
        yield world
