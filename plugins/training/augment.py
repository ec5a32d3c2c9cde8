"""Small random changes of images that leave what they show unchanged."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["flip", "shift"]


def shift(images: Tensor, pixels: int) -> Tensor:
    """Move each image by up to `pixels` in each direction, filling with black.

    Args:
        images: Images, `(B, 1, 28, 28)`.
        pixels: Largest shift.

    Returns:
        The moved images, `(B, 1, 28, 28)`.
    """
    B, _, H, W = images.shape
    padded = torch.nn.functional.pad(images, [pixels] * 4)
    top, left = torch.randint(2 * pixels + 1, (2, B, 1))
    rows, columns = top + torch.arange(H), left + torch.arange(W)
    return padded[torch.arange(B)[:, None, None], 0, rows[:, :, None], columns[:, None, :]].unsqueeze(1)


def flip(images: Tensor) -> Tensor:
    """Mirror half of the images left to right (for clothes; a mirrored digit is no digit).

    Args:
        images: Images, `(B, 1, 28, 28)`.

    Returns:
        The images, some mirrored, `(B, 1, 28, 28)`.
    """
    return torch.where(torch.rand(len(images), 1, 1, 1) < 0.5, images.flip(-1), images)
