"""The Fréchet distance between two sets of features, each taken as a Gaussian."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["frechet_distance"]


def frechet_distance(features_a: Tensor, features_b: Tensor) -> float:
    r"""Squared Wasserstein-2 distance between the Gaussians fitted to two sets of features.

    .. math:: d^2 = \|\mu_a - \mu_b\|^2 + \operatorname{tr}(C_a + C_b - 2 (C_a^{1/2} C_b C_a^{1/2})^{1/2})

    References:
        GANs Trained by a Two Time-Scale Update Rule (Heusel et al., 2017), arXiv:1706.08500

    Args:
        features_a: Features, `(N, D)`, N at least 2.
        features_b: Features, `(M, D)`, M at least 2.

    Returns:
        The distance, at least 0 up to rounding, in the squared units of the features.
    """
    a, b = features_a.double(), features_b.double()
    root = _square_root(torch.cov(a.T))
    C_b = torch.cov(b.T)
    # Both factors are symmetric, so the cross term needs eigenvalues of a symmetric matrix only.
    cross = torch.linalg.eigvalsh(root @ C_b @ root).clamp(min=0).sqrt().sum()
    distance = (a.mean(0) - b.mean(0)).square().sum() + root.square().sum() + C_b.trace() - 2 * cross
    return distance.item()


def _square_root(matrix: Tensor) -> Tensor:
    values, vectors = torch.linalg.eigh(matrix)
    return (vectors * values.clamp(min=0).sqrt()) @ vectors.T
