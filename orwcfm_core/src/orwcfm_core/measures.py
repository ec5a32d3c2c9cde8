"""Measures of samples on a closer look, with 95 % confidence intervals; docs/sweep.md lists the formulas.

All of it computes in double precision on the CPU.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from statistics import NormalDist
from typing import NamedTuple

import torch
from torch import Tensor

from orwcfm_core.backbone import Condition, VelocityField

__all__ = [
    "Estimate",
    "bootstrap",
    "distance_estimate",
    "frechet_distance",
    "mean_estimate",
    "path_divergence",
    "share_estimate",
    "vendi_estimate",
]

Z = NormalDist().inv_cdf(0.975)
"""Half the width of a 95 % interval, in standard errors."""
ROWS = 512
"""Rows of a matrix of distances that are computed at once."""
STEPS = 20
"""Steps along a path."""


class Estimate(NamedTuple):
    """A value and its 95 % confidence interval; NaN where it cannot be known."""

    value: float
    low: float
    high: float


def mean_estimate(values: Tensor) -> Estimate:
    """The mean, `mean +- z s / sqrt(n)`, s with n - 1.

    Args:
        values: `(n,)`, independent.
    """
    v = values.cpu().double()
    return _around(float(v.mean()), float(v.std()) / math.sqrt(len(v)))


def share_estimate(hits: Tensor) -> Estimate:
    """The share of samples that do something, with Wilson's interval, which holds near 0 and 1 as well.

    References:
        Probable inference, the law of succession, and statistical inference (Wilson, 1927)

    Args:
        hits: `(n,)` booleans.
    """
    n, p = len(hits), float(hits.double().mean())
    centre = (p + Z**2 / (2 * n)) / (1 + Z**2 / n)
    half = Z / (1 + Z**2 / n) * math.sqrt(p * (1 - p) / n + Z**2 / (4 * n**2))
    return Estimate(p, centre - half, centre + half)


def distance_estimate(features: Tensor, normalised: bool) -> Estimate:
    """Mean Euclidean distance U between all pairs of samples.

    U is a U-statistic; with h_i the mean distance of sample i to the others, its jackknife variance is
    `4 (n - 1) / (n (n - 2)^2) sum_i (h_i - U)^2`.

    References:
        On some convergence properties of U-statistics (Sen, 1960)

    Args:
        features: `(n, D)`, n at least 3 for an interval.
        normalised: Scale each row to length 1 first: then it is `metrics.diversity`, in [0, 2].
    """
    x = features.cpu().double()
    x = torch.nn.functional.normalize(x, dim=1) if normalised else x
    n = len(x)
    # Products of matrices would be faster, and wrong for samples that are almost the same.
    mode = "donot_use_mm_for_euclid_dist"
    h = torch.cat([torch.cdist(part, x, compute_mode=mode).sum(1) for part in x.split(ROWS)]) / max(1, n - 1)
    if n < 3:
        return Estimate(float(h.mean()) if n else math.nan, math.nan, math.nan)
    variance = 4 * (n - 1) / (n * (n - 2) ** 2) * float((h - h.mean()).square().sum())
    return _around(float(h.mean()), math.sqrt(variance))


def vendi_estimate(features: Tensor) -> Estimate:
    """The Vendi score: the exponential of the entropy of the eigenvalues of K / n, in [1, n].

        VS = exp(H),   H = -sum_i lambda_i log lambda_i,   lambda_i the eigenvalues of K / n,   K_ij = cos(x_i, x_j)

    K / n has the eigenvalues of S = mean_i x_i x_i^T. The influence of a sample on H is -x_i^T log(S) x_i - H, and the
    spread of it gives the standard error of H. Where n is not much larger than the score, the score is too low: it is
    then a matter of how many samples were drawn.

    References:
        The Vendi Score: A Diversity Evaluation Metric for Machine Learning (Friedman and Dieng, 2023),
        arXiv:2210.02410

    Args:
        features: `(n, D)`; each row is scaled to length 1.
    """
    x = torch.nn.functional.normalize(features.cpu().double(), dim=1)
    n = len(x)
    if x.shape[1] <= n:
        values, vectors = torch.linalg.eigh(x.T @ x / n)
        projected = (x @ vectors).square()
    else:
        values, vectors = torch.linalg.eigh(x @ x.T / n)
        projected = n * values.clamp(min=0) * vectors.square()
    logs = torch.where(values > 1e-12, values.clamp(min=1e-12).log(), 0.0)
    entropy = float(-(values * logs).sum())
    error = float((-projected @ logs).std()) / math.sqrt(n) if n > 1 else math.nan
    return Estimate(math.exp(entropy), math.exp(entropy - Z * error), math.exp(entropy + Z * error))


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
    a, b = features_a.cpu().double(), features_b.cpu().double()
    root, C_b = _square_root(_covariance(a)), _covariance(b)
    # Both factors are symmetric, so the cross term needs eigenvalues of a symmetric matrix only.
    cross = torch.linalg.eigvalsh(root @ C_b @ root).clamp(min=0).sqrt().sum()
    distance = (a.mean(0) - b.mean(0)).square().sum() + root.square().sum() + C_b.trace() - 2 * cross
    return distance.item()


def bootstrap(
    statistic: Callable[..., float],
    samples: Sequence[Tensor],
    resamples: int,
    generator: torch.Generator,
    paired: bool = False,
) -> Estimate:
    """A statistic of one or several samples, `value +- z s`, s the spread of its value over resamples.

    The interval is centred on the value, for a percentile interval would inherit the bias of resampling, in which each
    sample may come twice.

    References:
        An Introduction to the Bootstrap, 13.3 (Efron and Tibshirani, 1993)

    Args:
        statistic: Called with as many tensors as there are samples.
        samples: Each `(n_i, *)`, with independent rows.
        resamples: How many, at least 2.
        generator: Source of randomness, on the CPU.
        paired: Row i of all samples belongs together, and is drawn together.
    """
    found = []
    for _ in range(resamples):
        rows = [torch.randint(len(s), (len(s),), generator=generator) for s in (samples[:1] if paired else samples)]
        rows = rows * len(samples) if paired else rows
        found.append(statistic(*(sample[r] for sample, r in zip(samples, rows, strict=True))))
    return _around(statistic(*samples), float(torch.tensor(found, dtype=torch.float64).std()))


@torch.no_grad()
def path_divergence(
    policy: VelocityField, reference: VelocityField, noise: Tensor, condition: Condition, steps: int = STEPS
) -> Tensor:
    """How far the policy's velocity is from the reference's along the policy's own paths, per dimension, `(B,)`.

        int_0^1 |v(t, x_t) - v_ref(t, x_t)|^2 / d dt,   dx_t/dt = v(t, x_t),   x_0 = noise

    by Heun steps and the trapezoidal rule. Its mean, times d, is the integral in the bound on the Wasserstein-2
    distance, without the factor e^{2L}.

    Args:
        policy: v.
        reference: v_ref.
        noise: `(B, *)`.
        condition: From `Backbone.encode`, for B samples.
        steps: Equal steps.
    """

    def at(field: VelocityField, i: int, x: Tensor) -> Tensor:
        return field.velocity(torch.tensor(i / steps, dtype=x.dtype, device=x.device), x, condition).to(x)

    x, total = noise, torch.zeros(len(noise), dtype=torch.float64)
    v = at(policy, 0, x)
    for i in range(steps + 1):
        square = (v - at(reference, i, x)).flatten(1).float().square().mean(1).cpu().double()
        total += square / steps * (0.5 if i in (0, steps) else 1.0)
        if i < steps:
            x = x + (v + at(policy, i + 1, x + v / steps)) / (2 * steps)
            v = at(policy, i + 1, x)
    return total


def _around(value: float, error: float) -> Estimate:
    return Estimate(value, value - Z * error, value + Z * error)


def _covariance(x: Tensor) -> Tensor:
    """`(D, D)`, for a single dimension as well."""
    centred = x - x.mean(0)
    return centred.T @ centred / (len(x) - 1)


def _square_root(matrix: Tensor) -> Tensor:
    values, vectors = torch.linalg.eigh(matrix)
    return (vectors * values.clamp(min=0).sqrt()) @ vectors.T
