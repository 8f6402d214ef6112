"""The published architectures: exact parameter counts, shapes, and refusals that say what is allowed."""

import pytest
import torch

from shared.networks import NETWORKS, create_network


@pytest.mark.parametrize(("name", "parameters"), [("lenet5", 82_826), ("lenet5-half", 46_380)])
def test_parameter_counts_are_the_papers(name: str, parameters: int) -> None:
    network = create_network(name, height=28, width=28, channels=1, classes=10)
    assert sum(parameter.numel() for parameter in network.parameters()) == parameters


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize(("channels", "classes"), [(1, 10), (3, 7)])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_images_nchw_become_logits_nk(
    name: str, channels: int, classes: int, memory_format: torch.memory_format
) -> None:
    (height, width), _ = NETWORKS[name]
    network = create_network(name, height=height, width=width, channels=channels, classes=classes)
    images_nchw = torch.rand(5, channels, height, width).contiguous(memory_format=memory_format)

    logits_nk = network(images_nchw)

    assert logits_nk.shape == (5, classes)
    assert logits_nk.dtype == torch.float32


def test_the_half_version_halves_the_filters_and_not_the_dense_layers() -> None:
    shapes = {
        name: [tuple(p.shape) for p in create_network(name, height=28, width=28, channels=1, classes=10).parameters()]
        for name in ("lenet5", "lenet5-half")
    }
    assert shapes["lenet5"][0] == (6, 1, 5, 5)
    assert shapes["lenet5-half"][0] == (3, 1, 5, 5)
    assert shapes["lenet5"][-4:] == shapes["lenet5-half"][-4:] == [(84, 120), (84,), (10, 84), (10,)]


def test_unknown_networks_are_refused_with_the_allowed_names() -> None:
    with pytest.raises(ValueError, match="network is 'lenet6'; allowed are lenet5, lenet5-half"):
        create_network("lenet6", height=28, width=28, channels=1, classes=10)


def test_image_sizes_that_a_network_is_not_defined_for_are_refused() -> None:
    with pytest.raises(ValueError, match="lenet5 is defined for 28x28 images, not 32x32"):
        create_network("lenet5", height=32, width=32, channels=1, classes=10)
