"""Honest books, with signatures and without."""

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from distill_client.teachers.paid.store import PaidLabels
from tests.distill_client.audit.books import Books


@pytest.fixture
def books(tmp_path: Path) -> Iterator[Books]:
    with closing(PaidLabels(tmp_path / "answers.sqlite", run_id="run-1")) as store:
        yield Books(store)
