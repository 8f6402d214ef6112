"""Bundles with fresh, untrained weights: all that these tests need of a teacher."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from shared.networks import create_network
from teacher_server.teachers.bundle import Bundle, serialise_weights, write_bundle
from teacher_server.teachers.manifest import BundleManifest

MakeBundle = Callable[..., Bundle]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """A second thread is of no use to networks this small, and a brake when another process wants its core."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def make_bundle(tmp_path: Path) -> MakeBundle:
    """Write a bundle of ten classes into ``tmp_path/bundle`` (or ``folder``) with the weights of seed 0, scaled."""

    def make(
        folder: str = "bundle", *, channels: int = 1, mean: float = 0.0, std: float = 1.0, weights_scale: float = 1.0
    ) -> Bundle:
        torch.manual_seed(0)
        network = create_network("lenet5-half", height=28, width=28, channels=channels, classes=10)
        for parameter in network.parameters():
            parameter.data *= weights_scale
        weights, weights_table = serialise_weights(network)
        manifest = BundleManifest.model_validate(
            {
                "name": "untrained",
                "version": "1",
                "classes": [f"class {index}" for index in range(10)],
                "input": {
                    "height": 28,
                    "width": 28,
                    "channels": channels,
                    "mean": [mean] * channels,
                    "std": [std] * channels,
                },
                "network": {"name": "lenet5-half"},
                "weights": weights_table,
                "measured": {"test_accuracy": 0.1, "test_dataset": "none", "test_images": 1},
            }
        )
        return write_bundle(tmp_path / folder, manifest, weights)

    return make


@pytest.fixture
def bundle(make_bundle: MakeBundle) -> Bundle:
    return make_bundle()
