"""The architectures of the FS-BBT paper by name; a plain table, because there are only a few."""

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
