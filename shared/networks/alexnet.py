"""AlexNet and AlexNet-half for 32x32 images as the FS-BBT code defines them.

1,659,178 and 417,434 trainable parameters at 32x32x3 and 10 classes.
"""

import torch
from torch import nn

# Keras' defaults, which the published figures were made with; torch writes the same momentum as 1 - 0.99.
_BATCH_NORM_EPSILON = 1e-3
_BATCH_NORM_MOMENTUM = 0.01


class AlexNet(nn.Module):
    """Five convolutions ("same"), three 3/2 poolings, three dense layers; 32x32 images in, logits out.

    Every batch normalisation follows its activation (and pooling), dropout comes before it, as published. The half
    version halves every width.
    """

    def __init__(
        self, channels: int, classes: int, *, filters: tuple[int, int, int, int, int], dense: tuple[int, int]
    ) -> None:
        super().__init__()
        first, second, third, fourth, fifth = filters
        self.features = nn.Sequential(
            *_convolution(channels, first, 5, pooled=True),
            *_convolution(first, second, 5, pooled=True),
            *_convolution(second, third, 3, pooled=False),
            *_convolution(third, fourth, 3, pooled=False),
            *_convolution(fourth, fifth, 3, pooled=True),
        )
        self.classifier = nn.Sequential(
            *_dense(fifth * 3 * 3, dense[0]),
            *_dense(dense[0], dense[1]),
            nn.Linear(dense[1], classes),
        )
        self._initialise()

    def _initialise(self) -> None:
        convolutions = [layer for layer in self.features if isinstance(layer, nn.Conv2d)]
        layers: list[nn.Conv2d | nn.Linear] = [*convolutions]
        layers += [layer for layer in self.classifier if isinstance(layer, nn.Linear)]
        for layer in layers:
            nn.init.xavier_uniform_(layer.weight)
            assert layer.bias is not None
            nn.init.zeros_(layer.bias)
        for position in (1, 3, 4):  # the second, fourth and fifth start with ones, as in the released code
            bias = convolutions[position].bias
            assert bias is not None
            nn.init.ones_(bias)

    def forward(self, images_nchw: torch.Tensor) -> torch.Tensor:
        """float32 N x C x 32 x 32 in, logits N x K out."""
        logits: torch.Tensor = self.classifier(self.features(images_nchw).flatten(1))
        return logits


def _convolution(inputs: int, outputs: int, side: int, *, pooled: bool) -> list[nn.Module]:
    pooling = [nn.MaxPool2d(3, stride=2)] if pooled else []
    norm = nn.BatchNorm2d(outputs, eps=_BATCH_NORM_EPSILON, momentum=_BATCH_NORM_MOMENTUM)
    # Published as ReLU, then pool; this order gives the same values and gradients with a quarter of the ReLUs.
    return [nn.Conv2d(inputs, outputs, side, padding=side // 2), *pooling, nn.ReLU(), norm]


def _dense(inputs: int, outputs: int) -> list[nn.Module]:
    norm = nn.BatchNorm1d(outputs, eps=_BATCH_NORM_EPSILON, momentum=_BATCH_NORM_MOMENTUM)
    return [nn.Linear(inputs, outputs), nn.ReLU(), nn.Dropout(0.5), norm]
