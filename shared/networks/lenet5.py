"""LeNet5 and LeNet5-half as the FS-BBT code defines them (82,826 and 46,380 parameters at 28x28x1, 10 classes)."""

import torch
from torch import nn


class LeNet5(nn.Module):
    """conv5x5 valid, pool, conv5x5 same, pool, 120, 84, K; 28x28 images in, logits out.

    The half version halves the filters of both convolutions and leaves the dense layers as they are.
    """

    def __init__(self, channels: int, classes: int, *, filters: tuple[int, int]) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, filters[0], 5)
        self.conv2 = nn.Conv2d(filters[0], filters[1], 5, padding=2)
        self.dense1 = nn.Linear(filters[1] * 6 * 6, 120)
        self.dense2 = nn.Linear(120, 84)
        self.logits = nn.Linear(84, classes)
        for layer in (self.conv1, self.conv2, self.dense1, self.dense2, self.logits):
            nn.init.xavier_uniform_(layer.weight)  # Keras' default, which the published figures were made with
            assert layer.bias is not None
            nn.init.zeros_(layer.bias)

    def forward(self, images_nchw: torch.Tensor) -> torch.Tensor:
        """float32 N x C x 28 x 28 in, logits N x K out."""
        # Published as ReLU, then pool; this order gives the same values and gradients with a quarter of the ReLUs.
        x = torch.relu(torch.max_pool2d(self.conv1(images_nchw), 2))
        x = torch.relu(torch.max_pool2d(self.conv2(x), 2))
        x = torch.relu(self.dense1(x.flatten(1)))
        x = torch.relu(self.dense2(x))
        logits: torch.Tensor = self.logits(x)
        return logits
