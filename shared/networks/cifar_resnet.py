"""ResNet-20 and ResNet-32 for CIFAR as Keras' example defines version 1, which the FS-BBT code took over."""

import torch
from torch import nn
from torch.nn import functional as F

# Keras' defaults, which the published figures were made with; torch writes the same momentum as 1 - 0.99.
_BATCH_NORM_EPSILON = 1e-3
_BATCH_NORM_MOMENTUM = 0.01
_WIDTHS = (16, 32, 64)


class CifarResNet(nn.Module):
    """A 3x3 convolution, three stages of ``blocks`` residual blocks with 16, 32 and 64 filters, average, logits.

    He et al. 2015, section 4.2, with a 1x1 projection (no normalisation) where a stage halves the image.
    """

    def __init__(self, channels: int, classes: int, *, blocks: int) -> None:
        super().__init__()
        self.stem = _convolution(channels, _WIDTHS[0], 3, stride=1)
        self.stem_norm = _norm(_WIDTHS[0])
        stages: list[nn.Module] = []
        inputs = _WIDTHS[0]
        for stage, width in enumerate(_WIDTHS):
            for block in range(blocks):
                halving = stage > 0 and block == 0
                stages.append(_Residual(inputs, width, stride=2 if halving else 1))
                inputs = width
        self.stages = nn.Sequential(*stages)
        self.logits = nn.Linear(inputs, classes)
        nn.init.kaiming_normal_(self.logits.weight)
        nn.init.zeros_(self.logits.bias)

    def forward(self, images_nchw: torch.Tensor) -> torch.Tensor:
        """float32 N x C x 32 x 32 in, logits N x K out."""
        x = torch.relu(self.stem_norm(self.stem(images_nchw)))
        logits: torch.Tensor = self.logits(F.avg_pool2d(self.stages(x), 8).flatten(1))
        return logits


class _Residual(nn.Module):
    def __init__(self, inputs: int, width: int, *, stride: int) -> None:
        super().__init__()
        self.conv1 = _convolution(inputs, width, 3, stride=stride)
        self.norm1 = _norm(width)
        self.conv2 = _convolution(width, width, 3, stride=1)
        self.norm2 = _norm(width)
        self.shortcut = nn.Identity() if stride == 1 else _convolution(inputs, width, 1, stride=stride)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        residual = torch.relu(self.norm1(self.conv1(x)))
        residual = self.norm2(self.conv2(residual))
        return torch.relu(self.shortcut(x) + residual)


def _convolution(inputs: int, outputs: int, side: int, *, stride: int) -> nn.Conv2d:
    layer = nn.Conv2d(inputs, outputs, side, stride=stride, padding=side // 2)
    nn.init.kaiming_normal_(layer.weight)
    assert layer.bias is not None
    nn.init.zeros_(layer.bias)
    return layer


def _norm(width: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(width, eps=_BATCH_NORM_EPSILON, momentum=_BATCH_NORM_MOMENTUM)
