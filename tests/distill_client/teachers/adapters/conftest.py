"""A vendor's server for every test that wants one."""

from collections.abc import Iterator

import pytest

from tests.distill_client.teachers.adapters.vendor import Vendor, vendor


@pytest.fixture
def theirs() -> Iterator[Vendor]:
    with vendor() as found:
        yield found
