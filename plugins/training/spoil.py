"""Make images imperfect, slightly or badly, and say which captions stay true of them."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from augment import flip, shift
from torch import Tensor

__all__ = ["spoil"]


def spoil(x: Tensor, labels: Tensor, target: Tensor, defined: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Make images imperfect: slightly, so that scores survive it; or badly, so that no caption is true any more.

    Without the second, the score of a half-formed picture is arbitrary, and fine-tuning on it would find the best one.

    Args:
        x: Images in [0, 1], `(B, 1, 28, 28)`.
        labels: Classes in 0..19, `(B,)`.
        target: Truth of K captions, `(B, K)`.
        defined: Whether it is defined, `(B, K)`.

    Returns:
        Images, truth and definedness. The first eighth are mixtures or collages of two classes, of which a caption is
        false unless true of both (then undefined); in the next sixteenth nothing is left to see, and all is false.
    """
    B = len(x)
    mixed, lost = slice(0, B // 8), slice(B // 8, B // 8 + B // 16)
    x = torch.where((labels < 10)[:, None, None, None], flip(x), x)
    x = shift(x, 1)
    target, defined = target.clone(), defined.clone()
    other = torch.arange(B).roll(B // 8)[mixed]
    same = (labels[mixed] == labels[other])[:, None]
    maybe = target | ~defined
    defined[mixed] = torch.where(same, defined[mixed], ~(maybe[mixed] & maybe[other]))
    target[mixed] &= same
    target[lost], defined[lost] = False, True
    x = torch.cat(
        [
            torch.where(same[..., None, None], x[mixed], _mixture(x[mixed], x[other])),
            _lost(x[lost]),
            _slightly(x[lost.stop :]),
        ]
    )
    return x.clamp(0, 1), target, defined


def _mixture(a: Tensor, b: Tensor) -> Tensor:
    """Averages, and collages that take the pixels beyond a line from the other image, `(B, 1, 28, 28)`."""
    B = len(a)
    weight = 0.35 + 0.3 * torch.rand(B, 1, 1, 1)
    line = torch.arange(28).expand(B, 1, 28, 28) < torch.randint(10, 19, (B, 1, 1, 1))
    line = torch.where(torch.rand(B, 1, 1, 1) < 0.5, line, line.mT).float()
    weight = torch.where(torch.rand(B, 1, 1, 1) < 0.6, weight, line)
    return weight * a + (1 - weight) * b


def _lost(x: Tensor) -> Tensor:
    """The flow's own intermediate images at t up to a half, as a sampler makes them, and plain grey ones."""
    B = len(x)
    t = 0.5 * torch.rand(B, 1, 1, 1)
    x = ((1 - t) * torch.randn(B, 1, 28, 28) + t * (2 * x - 1) + 1) / 2
    plain = torch.rand(B, 1, 1, 1).expand(-1, 1, 28, 28)
    return torch.where(torch.rand(B, 1, 1, 1) < 0.2, plain, x)


def _slightly(x: Tensor) -> Tensor:
    """A little blur on a quarter of the images, a little noise on half, a small black square on an eighth."""
    B = len(x)
    blurred = F.avg_pool2d(F.pad(x, [1] * 4), 3, stride=1)
    x = torch.where(torch.rand(B, 1, 1, 1) < 0.25, torch.lerp(x, blurred, 0.5), x)
    noise = 0.08 * torch.rand(B, 1, 1, 1) * (torch.rand(B, 1, 1, 1) < 0.5)
    x = x + noise * torch.randn_like(x)
    top, left = torch.randint(22, (2, B, 1))
    row, column = torch.arange(28) - top, torch.arange(28) - left
    inside = ((row >= 0) & (row < 6))[:, None, :, None] & ((column >= 0) & (column < 6))[:, None, None, :]
    return torch.where(inside & (torch.rand(B, 1, 1, 1) < 0.125), 0.0, x)
