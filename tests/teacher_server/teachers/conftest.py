"""Bundles with fresh, untrained weights: all that these tests need of a teacher."""

import copy
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import nn

from shared.networks import create_network
from teacher_server.teachers.bundle import Bundle, serialise_weights, write_bundle
from teacher_server.teachers.manifest import BundleManifest
from tests.teacher_server.teachers.models import export, small_network, to_onnx

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


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same network in every format and batch rule."""
    folder = tmp_path_factory.mktemp("owner")
    network = small_network()
    state = {name: tensor.contiguous() for name, tensor in network.state_dict().items()}
    safetensors.torch.save_file(state, folder / "mine.safetensors")
    (folder / "mine.pt2").write_bytes(export(network))
    (folder / "fixed1.pt2").write_bytes(export(network, rows=1, fixed=True))
    (folder / "least3.pt2").write_bytes(export(network, rows=3, least=3))
    to_onnx(network, folder / "mine.onnx")
    to_onnx(network, folder / "external.onnx", external=True)
    to_onnx(network, folder / "fixed4.onnx", rows=4, fixed=True)
    (folder / "softmax.pt2").write_bytes(export(nn.Sequential(network, nn.Softmax(1))))
    (folder / "training.pt2").write_bytes(export(copy.deepcopy(network).train()))
    return folder
