"""What is measured of every round; docs/metrics.md lists the formulas."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["correlation", "diversity", "effective_sample_size", "mean_and_std", "pixel_features"]

_MOST = 4096
"""Samples whose pairs are measured at most; more of them would neither fit into memory nor change the mean."""


def effective_sample_size(weights: Tensor) -> float:
    """Effective sample size as a share of the batch, `(sum |w|)^2 / (B sum w^2)`, in [0, 1].

    Args:
        weights: `(B,)`; signed weights count by their size.
    """
    w = weights.abs().cpu().double()
    total = float(w.square().sum())
    return float(w.sum().square()) / (total * len(w)) if total > 0 else 0.0


def diversity(features: Tensor) -> float:
    """Mean Euclidean distance between all pairs of L2-normalised features, in [0, 2]; 0 for fewer than two samples.

    Args:
        features: `(B, D)`; of more than 4,096 samples the first ones stand for all, as the pairs grow with the square.
    """
    if len(features) < 2:
        return 0.0
    unit = torch.nn.functional.normalize(features[:_MOST].cpu().double(), dim=1)
    return float(torch.pdist(unit).mean())


def pixel_features(images: Tensor) -> Tensor:
    """What pictures are compared by where no better features are known, `(B, D)`: pixels, counted from mid-grey.

    Counted from black, pictures that are black but for a speck would be as far apart as can be once their lengths are
    normalised, and a model that collapses to them would seem to gain diversity. From mid-grey they are nearly the same.

    Args:
        images: `(B, C, H, W)` in [0, 1].
    """
    return images.flatten(1) - 0.5


def mean_and_std(values: Tensor) -> tuple[float | None, float | None]:
    """Mean and standard deviation; None of nothing, which is not the same as 0.

    Args:
        values: `(N,)`.
    """
    # In float64, where neither squares of large scores nor those of small ones leave the range.
    v = values.cpu().double()
    return (float(v.mean()), float(v.std(correction=0))) if len(v) else (None, None)


def correlation(a: Tensor, b: Tensor) -> float | None:
    """Pearson's correlation, in [-1, 1]; None where one of them does not vary.

    Args:
        a: `(N,)`.
        b: `(N,)`.
    """
    x, y = (values.cpu().double() - values.cpu().double().mean() for values in (a, b))
    norm = float(x.norm() * y.norm())
    return float(x @ y) / norm if norm > 0 else None
