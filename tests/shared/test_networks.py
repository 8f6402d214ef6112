"""Architectures by name: the published ones' exact parameter counts, everybody else's, and what is refused."""

import sys
from pathlib import Path

import pytest
import torch

from shared.networks import NETWORKS, create_network


@pytest.mark.parametrize(
    ("name", "channels", "trainable", "running"),
    [
        ("lenet5", 1, 82_826, 0),
        ("lenet5-half", 1, 46_380, 0),
        # Keras counts a batch normalisation's running means and variances too, as its "non-trainable" ones
        ("alexnet", 3, 1_659_178, 2_912),
        ("alexnet-half", 3, 417_434, 1_456),
        ("resnet32", 3, 467_946, 2_272),
        ("resnet20", 3, 273_066, 1_376),
    ],
)
def test_parameter_counts_are_the_papers(name: str, channels: int, trainable: int, running: int) -> None:
    height, width = NETWORKS[name][0]
    network = create_network(name, height=height, width=width, channels=channels, classes=10)
    assert sum(parameter.numel() for parameter in network.parameters()) == trainable
    assert sum(buffer.numel() for key, buffer in network.named_buffers() if "running" in key) == running


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


def test_alexnets_second_fourth_and_fifth_convolution_start_with_biases_of_one() -> None:
    network = create_network("alexnet", height=32, width=32, channels=3, classes=10)
    convolutions = [layer for layer in network.modules() if isinstance(layer, torch.nn.Conv2d)]
    biases = [layer.bias.detach() for layer in convolutions if layer.bias is not None]
    assert [(float(bias.min()), float(bias.max())) for bias in biases] == [(0, 0), (1, 1), (0, 0), (1, 1), (1, 1)]


def test_a_resnet_halves_the_image_twice_and_projects_without_normalisation() -> None:
    network = create_network("resnet20", height=32, width=32, channels=3, classes=10)
    strided = [layer for layer in network.modules() if isinstance(layer, torch.nn.Conv2d) and layer.stride == (2, 2)]
    assert [layer.kernel_size for layer in strided] == [(3, 3), (1, 1)] * 2
    assert sum(isinstance(layer, torch.nn.BatchNorm2d) for layer in network.modules()) == 1 + 2 * 9


@pytest.mark.parametrize(
    ("name", "height", "width", "channels"),
    [
        ("torchvision:mobilenet_v3_small", 32, 48, 3),
        ("torchvision:resnet18", 28, 28, 1),
        ("torchvision:googlenet", 64, 64, 3),
        ("torchvision:vit_b_16", 32, 32, 1),
        ("timm:resnet10t", 64, 48, 1),
        ("timm:vit_tiny_patch16_224", 64, 64, 3),
    ],
)
def test_library_networks_fit_the_images_and_classes(name: str, height: int, width: int, channels: int) -> None:
    network = create_network(name, height=height, width=width, channels=channels, classes=7)
    assert network.training
    assert network(torch.rand(2, channels, height, width)).shape == (2, 7)


def test_equal_seeds_give_library_networks_equal_weights() -> None:
    def weights() -> dict[str, torch.Tensor]:
        torch.manual_seed(3)
        return create_network("torchvision:resnet18", height=32, width=32, channels=1, classes=5).state_dict()

    first, second = weights(), weights()
    assert all(torch.equal(tensor, second[name]) for name, tensor in first.items())


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("torchvision:resnet19", "'torchvision:resnet19'; there are 80, among them resnet18"),
        ("torchvision:fcn_resnet50", "there are"),  # segments, does not classify
        ("torchvision:alexnet", "does not take 32x32x3 images"),
        ("torchvision:../x", "letters, digits and _"),
        ("timm:nope", "'timm:nope'; there are"),
        ("timm:hf-hub/x", "letters, digits and _"),
        ("no_such_module:build", "no_such_module:build cannot be made: ModuleNotFoundError"),
        ("os:nothing", "os:nothing cannot be made: AttributeError"),
        ("os:getpid", "os:getpid cannot be made: TypeError"),
        ("a:b:c", "allowed are torchvision:NAME, timm:NAME and module:function"),
        (":", "allowed are torchvision:NAME, timm:NAME and module:function"),
    ],
)
def test_names_that_lead_nowhere_are_refused_with_what_is_allowed(name: str, told: str) -> None:
    with pytest.raises(ValueError, match=r"^network ") as caught:
        create_network(name, height=32, width=32, channels=3, classes=10)
    assert told in str(caught.value)


OWN_MODULE = """
import torch

def fitting(*, height, width, channels, classes):
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(height * width * channels, classes))

def too_many(*, classes, **image):
    return fitting(classes=classes + 1, **image)

def no_module(**anything):
    return 3

def raising(**anything):
    raise KeyError("lost")
"""


def test_the_users_own_function_beside_them_makes_a_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_networks_of_a_user.py").write_text(OWN_MODULE)
    monkeypatch.chdir(tmp_path)
    path = list(sys.path)

    network = create_network("own_networks_of_a_user:fitting", height=4, width=6, channels=3, classes=5)

    assert network(torch.rand(2, 3, 4, 6)).shape == (2, 5)
    assert sys.path == path
    for function, told in (
        ("too_many", "answers one image with torch.float32 (1, 6); allowed are float logits (1, 5)"),
        ("no_module", "returns int; allowed is a torch.nn.Module"),
        ("raising", "cannot be made: KeyError: 'lost'"),
    ):
        with pytest.raises(ValueError, match=r"^network own_networks_of_a_user") as caught:
            create_network(f"own_networks_of_a_user:{function}", height=4, width=6, channels=3, classes=5)
        assert told in str(caught.value)
