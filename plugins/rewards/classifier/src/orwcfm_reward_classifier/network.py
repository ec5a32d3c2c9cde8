"""A small convolutional classifier of 28x28 grey images, whose penultimate layer also serves as a feature space."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["Classifier"]


class ConvBlock(nn.Module):
    """A 3x3 convolution, batch normalisation and a rectifier."""

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels_in, channels_out, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(channels_out)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.norm(self.conv(x)))


class Classifier(nn.Module):
    """Class logits and features of grey images.

    Works on 2x2 patches (14x14), then, with a residual connection, at 7x7. Use it in `eval()` mode: the batch
    statistics of training would make the score of one image depend on the others.

    Args:
        width: Channels at 14x14; twice as many at 7x7.
        features: Width of the penultimate layer.
        classes: Number of classes.
    """

    def __init__(self, width: int = 48, features: int = 96, classes: int = 10) -> None:
        super().__init__()
        self.stem = ConvBlock(4, width)
        self.fine = ConvBlock(width, width)
        self.widen = ConvBlock(width, 2 * width)
        self.coarse = ConvBlock(2 * width, 2 * width)
        self.project = nn.Linear(2 * width * 9, features)
        self.head = nn.Linear(features, classes)
        self.to(memory_format=torch.channels_last)

    def features(self, images: Tensor) -> Tensor:
        """The penultimate layer.

        Args:
            images: Images in [0, 1], `(B, 1, 28, 28)`.

        Returns:
            Features, non-negative, `(B, D)`.
        """
        x = F.pixel_unshuffle(2 * images - 1, 2).contiguous(memory_format=torch.channels_last)
        x = F.max_pool2d(self.fine(self.stem(x)), 2)
        x = self.widen(x)
        x = x + self.coarse(x)
        # Means over a 3x3 grid, not one mean: where the ink is matters to a digit.
        x = F.avg_pool2d(x, 3, stride=2)
        return F.relu(self.project(x.flatten(1)))

    def forward(self, images: Tensor) -> Tensor:
        """Class logits.

        Args:
            images: Images in [0, 1], `(B, 1, 28, 28)`.

        Returns:
            Logits, `(B, 10)`, in the order of the classes' labels.
        """
        return self.head(self.features(images))
