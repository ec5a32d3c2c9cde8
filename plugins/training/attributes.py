"""Properties that can be read off a picture: is what it shows bright or dark, large or small, thick or thin."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["ATTRIBUTES", "brightness", "size", "states", "thickness", "thresholds"]

ATTRIBUTES = ["bright", "dark", "large", "small", "thick", "thin"]
"""Names of the columns of `states`: pairs of opposites."""


def brightness(images: Tensor) -> Tensor:
    """Mean grey level of the pixels that are not background.

    Args:
        images: Images in [0, 1], `(N, 1, 28, 28)`.

    Returns:
        Grey levels in [0, 1], `(N,)`; 0 for an empty image.
    """
    ink = images > 0.1
    return (images * ink).flatten(1).sum(1) / ink.flatten(1).sum(1).clamp(min=1)


def size(images: Tensor) -> Tensor:
    """Area of the smallest upright box around the pixels that are not background.

    Args:
        images: Images in [0, 1], `(N, 1, 28, 28)`.

    Returns:
        Areas as a fraction of the image, in [0, 1], `(N,)`.
    """
    ink = images[:, 0] > 0.2
    return _extent(ink.any(2)) * _extent(ink.any(1)) / images[0].numel()


def thickness(images: Tensor) -> Tensor:
    """Mean width of strokes: twice the area over the length of its outline, as the ratio of mass and variation.

    Args:
        images: Images in [0, 1], `(N, 1, 28, 28)`.

    Returns:
        Widths in pixels, `(N,)`; 0 for an empty image.
    """
    mass = images.flatten(1).sum(1)
    variation = images.diff(dim=-1).abs().flatten(1).sum(1) + images.diff(dim=-2).abs().flatten(1).sum(1)
    return 2 * mass / variation.clamp(min=1e-6)


def thresholds(images: Tensor) -> Tensor:
    """The limits below and above which an attribute holds, from the training images of one data set.

    Args:
        images: Images in [0, 1], `(N, 1, 28, 28)`.

    Returns:
        The 40% and 60% quantiles of brightness, size and thickness, `(3, 2)`. What lies between is left undefined:
        nobody would call it large or small.
    """
    values = _values(images)
    return torch.quantile(values, torch.tensor([0.4, 0.6]), dim=0).T


def states(images: Tensor, limits: Tensor) -> Tensor:
    """Whether each attribute holds of each image.

    Args:
        images: Images in [0, 1], `(N, 1, 28, 28)`.
        limits: The data set's `thresholds`, `(3, 2)`.

    Returns:
        1 where it holds, 0 where its opposite holds, -1 where neither does, `(N, 6)` int8, columns as `ATTRIBUTES`.
    """
    values = _values(images)
    high, low = values > limits[:, 1], values < limits[:, 0]
    state = torch.where(high, 1, torch.where(low, 0, -1))
    opposite = torch.where(state < 0, state, 1 - state)
    return torch.stack([state, opposite], dim=-1).flatten(1).to(torch.int8)


def _values(images: Tensor) -> Tensor:
    return torch.stack([brightness(images), size(images), thickness(images)], dim=1)


def _extent(occupied: Tensor) -> Tensor:
    """Length from the first to the last occupied place, `(N, L)` to `(N,)`."""
    L = occupied.shape[1]
    place = torch.arange(L).expand_as(occupied)
    last = torch.where(occupied, place, -1).amax(1)
    first = torch.where(occupied, place, L).amin(1)
    return (last - first + 1).clamp(min=0)
