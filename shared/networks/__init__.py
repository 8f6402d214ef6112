"""Published network architectures by name; a plain table, because there are only a few."""

from collections.abc import Callable

from torch import nn

from shared.networks.alexnet import AlexNet
from shared.networks.cifar_resnet import CifarResNet
from shared.networks.lenet5 import LeNet5

# name -> (height, width) it is defined for, and its constructor from (channels, classes)
NETWORKS: dict[str, tuple[tuple[int, int], Callable[[int, int], nn.Module]]] = {
    "lenet5": ((28, 28), lambda channels, classes: LeNet5(channels, classes, filters=(6, 16))),
    "lenet5-half": ((28, 28), lambda channels, classes: LeNet5(channels, classes, filters=(3, 8))),
    "alexnet": (
        (32, 32),
        lambda channels, classes: AlexNet(channels, classes, filters=(48, 128, 192, 192, 128), dense=(512, 256)),
    ),
    "alexnet-half": (
        (32, 32),
        lambda channels, classes: AlexNet(channels, classes, filters=(24, 64, 96, 96, 64), dense=(256, 128)),
    ),
    "resnet20": ((32, 32), lambda channels, classes: CifarResNet(channels, classes, blocks=3)),
    "resnet32": ((32, 32), lambda channels, classes: CifarResNet(channels, classes, blocks=5)),
}


def create_network(name: str, *, height: int, width: int, channels: int, classes: int) -> nn.Module:
    """Build a network with fresh weights that maps float32 images_nchw to logits_nk.

    Raises ValueError when the name is unknown or the architecture is not defined for that image size.
    """
    if name not in NETWORKS:
        raise ValueError(f"network is {name!r}; allowed are {', '.join(NETWORKS)}")
    size, constructor = NETWORKS[name]
    if (height, width) != size:
        raise ValueError(f"network {name} is defined for {size[0]}x{size[1]} images, not {height}x{width}")
    return constructor(channels, classes)
