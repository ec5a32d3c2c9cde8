"""The W2 regularizer against flows whose distance is known."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from orwcfm_core.registry import Registry
from orwcfm_core.regularizer import Regularizer
from torch import Tensor


@pytest.fixture(scope="module")
def w2() -> Regularizer:
    plugin = Registry().get("regularizer", "w2")
    return plugin.build(plugin.spec.config(alpha=1.0), Regularizer)


class AffineFlow:
    """`v(t, x) = a x + b`, which carries z to `e^a z + b (e^a - 1) / a`.

    Args:
        a: Slope, the same in every dimension.
        b: Offset, `(d,)`.
    """

    def __init__(self, a: float, b: list[float]) -> None:
        self.a = a
        self.b = torch.tensor(b, dtype=torch.float64)

    def velocity(self, x: Tensor) -> Tensor:
        return self.a * x + self.b

    def at(self, t: float, z: Tensor) -> Tensor:
        """Where noise z is at time t."""
        shift = t if self.a == 0 else math.expm1(self.a * t) / self.a
        return math.exp(self.a * t) * z + shift * self.b

    def law(self) -> tuple[float, Tensor]:
        """Standard deviation and mean at t=1."""
        return math.exp(self.a), self.at(1.0, torch.zeros_like(self.b))


def unit_noise(dim: int) -> Tensor:
    """2 d points of mean 0 and covariance I: expectations of squares are exact."""
    corners = math.sqrt(dim) * torch.eye(dim, dtype=torch.float64)
    return torch.cat([corners, -corners])


def integral(penalty: Callable[..., Tensor], policy: AffineFlow, reference: AffineFlow) -> float:
    """`int_0^1 E_{x ~ p_s} |v - v_ref|^2 ds` from the penalty, which is a mean over dimensions."""
    z = unit_noise(len(policy.b))
    nodes, weights = np.polynomial.legendre.leggauss(20)
    total = 0.0
    for node, weight in zip(nodes, weights, strict=True):
        s = (node + 1) / 2
        x = policy.at(s, z)
        t = torch.full((len(x),), s, dtype=torch.float64)
        mean = penalty(policy.velocity(x), reference.velocity(x), t, x, torch.ones(len(x), dtype=torch.float64)).mean()
        total += weight / 2 * len(policy.b) * float(mean)
    return total


def squared_distance(policy: AffineFlow, reference: AffineFlow) -> float:
    """`W_2^2` of two isotropic Gaussians: `|m - m'|^2 + d (s - s')^2`."""
    (s, m), (s_ref, m_ref) = policy.law(), reference.law()
    return float((m - m_ref).square().sum()) + len(m) * (s - s_ref) ** 2


SHIFTS = [
    (AffineFlow(0.0, [1.0, -0.5, 2.0]), AffineFlow(0.0, [0.5, 0.5, 0.0])),
    (AffineFlow(0.7, [1.0]), AffineFlow(0.7, [-0.2])),
]
SLOPES = [(0.5, -0.3, 1), (-1.2, 0.4, 3), (0.8, 0.0, 2)]


@pytest.mark.parametrize(("policy", "reference"), SHIFTS, ids=["constant", "same slope"])
def test_penalty_of_a_shift_integrates_to_its_square(
    w2: Regularizer, policy: AffineFlow, reference: AffineFlow
) -> None:
    expected = float((policy.b - reference.b).square().sum())
    assert integral(w2.penalty, policy, reference) == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize(("a", "a_ref", "dim"), SLOPES)
def test_penalty_of_slopes_integrates_to_the_closed_form(w2: Regularizer, a: float, a_ref: float, dim: int) -> None:
    # x_s = e^{a s} z, so the integral is d (a - a_ref)^2 int e^{2 a s} ds.
    policy, reference = AffineFlow(a, [0.0] * dim), AffineFlow(a_ref, [0.0] * dim)
    expected = dim * (a - a_ref) ** 2 * math.expm1(2 * a) / (2 * a)
    assert integral(w2.penalty, policy, reference) == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("a", [-1.2, 0.0, 0.8])
@pytest.mark.parametrize("a_ref", [-0.9, 0.0, 0.5])
@pytest.mark.parametrize("b", [0.0, 1.5])
def test_integral_bounds_the_wasserstein_distance(w2: Regularizer, a: float, a_ref: float, b: float) -> None:
    policy, reference = AffineFlow(a, [b, 0.0]), AffineFlow(a_ref, [0.0, 0.0])
    lipschitz = abs(a_ref)
    bound = math.exp(2 * lipschitz) * integral(w2.penalty, policy, reference)
    assert squared_distance(policy, reference) <= bound * (1 + 1e-12)


def test_bound_is_reached_by_a_shift(w2: Regularizer) -> None:
    policy, reference = SHIFTS[0]
    assert integral(w2.penalty, policy, reference) == pytest.approx(squared_distance(policy, reference), rel=1e-10)


def test_penalty_is_zero_only_at_the_reference(w2: Regularizer) -> None:
    flow = AffineFlow(0.4, [1.0, 2.0])
    assert integral(w2.penalty, flow, flow) == 0.0
    assert integral(w2.penalty, AffineFlow(0.41, [1.0, 2.0]), flow) > 0.0
