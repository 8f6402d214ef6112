"""The published data sets, for tests that can do without them."""

import pytest

from shared.datasets import Dataset, DatasetUnavailable, Split, load_dataset


def load_or_skip(name: str, split: Split) -> Dataset:
    """Load a split, or skip the calling test with the reason why it is not there."""
    try:
        return load_dataset(name, split)
    except DatasetUnavailable as error:
        pytest.skip(str(error))
