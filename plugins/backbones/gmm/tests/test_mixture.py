"""The closed forms of the mixture against quadrature, autograd and transport."""

from __future__ import annotations

import math

import pytest
import torch
from orwcfm_backbone_gmm.mixture import GaussianMixture, place_means
from torch import Tensor
from torch.distributions import Categorical, Independent, MixtureSameFamily, Normal


def random_mixture(dim: int, components: int = 5, std: float = 0.6) -> GaussianMixture:
    g = torch.Generator().manual_seed(dim)
    means = 2 * torch.randn(components, dim, generator=g, dtype=torch.float64)
    return GaussianMixture(means, std, torch.rand(components, generator=g) + 0.1)


def marginal(q: GaussianMixture, t: float) -> MixtureSameFamily:
    """The law of `x_t`, by torch's own distributions."""
    sigma = math.sqrt((1 - t) ** 2 + (t * q.std) ** 2)
    return MixtureSameFamily(Categorical(q.weights), Independent(Normal(t * q.means, sigma), 1))


def transport(q: GaussianMixture, x: Tensor, steps: int = 30) -> Tensor:
    """Noise to samples by Runge and Kutta's method, written out."""
    h = 1 / steps
    for i in range(steps):
        t = torch.tensor(i * h, dtype=x.dtype)
        k1 = q.velocity(t, x)
        k2 = q.velocity(t + h / 2, x + h / 2 * k1)
        k3 = q.velocity(t + h / 2, x + h / 2 * k2)
        k4 = q.velocity(t + h, x + h * k3)
        x = x + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
    return x


@pytest.mark.parametrize("factors", [[1.0, 1, 1], [4.0, 0.5, 0]], ids=["plain", "weighted"])
@pytest.mark.parametrize("t", [0.05, 0.4, 0.8, 0.97])
def test_velocity_is_the_conditional_expectation(t: float, factors: list[float]) -> None:
    # E[w(k) u | x_t] / E[w(k) | x_t] by summing over x_1 on a grid, with x_0 = (x_t - t x_1) / (1 - t).
    q = GaussianMixture(torch.tensor([[-2.0], [0.5], [3.0]]), 0.4, torch.tensor([0.5, 0.2, 0.3]))
    w = torch.tensor(factors, dtype=torch.float64)
    x_t = torch.linspace(-3, 4, 29, dtype=torch.float64)
    x_1 = torch.linspace(-6, 7, 26001, dtype=torch.float64)
    x_0 = (x_t[:, None] - t * x_1) / (1 - t)
    prior = (w * q.weights * (-((x_1[:, None] - q.means[:, 0]) ** 2) / (2 * q.std**2)).exp()).sum(1)
    density = prior * (-(x_0**2) / 2).exp()
    expected = (density * (x_1 - x_0)).sum(1) / density.sum(1)
    v = q.reweighted(w).velocity(torch.tensor(t, dtype=torch.float64), x_t[:, None])[:, 0]
    torch.testing.assert_close(v, expected, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("dim", [1, 2, 7])
@pytest.mark.parametrize("t", [0.1, 0.5, 1.0])
def test_velocity_follows_from_the_score(dim: int, t: float) -> None:
    # E[x_0 | x_t] = -(1 - t) grad log p_t(x_t) (Tweedie), and v = (x_t - E[x_0 | x_t]) / t.
    q = random_mixture(dim)
    x = 3 * torch.randn(40, dim, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    x.requires_grad_()
    (score,) = torch.autograd.grad(marginal(q, t).log_prob(x).sum(), x)
    expected = (x + (1 - t) * score) / t
    torch.testing.assert_close(
        q.velocity(torch.tensor(t, dtype=torch.float64), x), expected.detach(), rtol=1e-9, atol=1e-9
    )


def test_velocity_at_time_zero_is_mean_minus_noise() -> None:
    q = random_mixture(3)
    x = torch.randn(6, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    mean = (q.weights[:, None] * q.means).sum(0)
    torch.testing.assert_close(q.velocity(torch.tensor(0.0), x), mean - x)


def test_time_per_sample_equals_time_for_all() -> None:
    q = random_mixture(2)
    g = torch.Generator().manual_seed(0)
    t, x = torch.rand(9, generator=g, dtype=torch.float64), torch.randn(9, 2, generator=g, dtype=torch.float64)
    v = q.velocity(t, x)
    for i in range(9):
        torch.testing.assert_close(q.velocity(t[i], x[i : i + 1])[0], v[i])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_far_points_and_narrow_components_stay_finite(dtype: torch.dtype) -> None:
    q = GaussianMixture(place_means(2, 8, 100.0), 0.01)
    x = torch.tensor([[1e4, -1e4], [0.0, 0.0], [100.0, 0.0]], dtype=dtype)
    for t in (0.0, 0.5, 1.0):
        v = q.velocity(torch.tensor(t), x)
        assert v.dtype == dtype
        assert v.isfinite().all()
    torch.testing.assert_close(q.responsibilities(torch.tensor(0.9), x).sum(1), torch.ones(3, dtype=dtype))


@pytest.mark.parametrize("dim", [1, 3])
def test_density_and_posterior(dim: int) -> None:
    q = random_mixture(dim)
    x = 3 * torch.randn(20, dim, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    law = marginal(q, 1.0)
    torch.testing.assert_close(q.log_prob(x), law.log_prob(x))
    joint = q.weights.log() + law.component_distribution.log_prob(x[:, None])
    torch.testing.assert_close(q.posterior(x), (joint - law.log_prob(x)[:, None]).exp())


def test_samples_have_the_weights_and_moments_of_the_mixture() -> None:
    q = GaussianMixture(torch.tensor([[-4.0, 0.0], [0.0, 4.0], [4.0, 0.0]]), 0.5, torch.tensor([0.6, 0.3, 0.1]))
    x = q.sample(8000, torch.Generator().manual_seed(0), torch.float64)
    check_mixture(q, x)


def test_the_flow_carries_noise_to_the_mixture() -> None:
    q = GaussianMixture(torch.tensor([[-4.0, 0.0], [0.0, 4.0], [4.0, 0.0]]), 0.5, torch.tensor([0.6, 0.3, 0.1]))
    noise = torch.randn(8000, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    check_mixture(q, transport(q, noise))


def check_mixture(q: GaussianMixture, x: Tensor) -> None:
    """Shares within 4 standard errors, and each component's mean and covariance."""
    k = torch.cdist(x, q.means).argmin(1)
    for i, share in enumerate(q.weights.tolist()):
        part = x[k == i]
        assert len(part) / len(x) == pytest.approx(share, abs=4 * math.sqrt(share * (1 - share) / len(x)))
        error = 5 * q.std / math.sqrt(len(part))
        assert float((part.mean(0) - q.means[i]).abs().max()) < error
        covariance = q.std**2 * torch.eye(2, dtype=torch.float64)
        assert float((part.T.cov() - covariance).abs().max()) < error


def test_one_component_is_an_affine_flow() -> None:
    # Noise z goes to mu + s z exactly.
    q = GaussianMixture(torch.tensor([[2.0, -1.0]]), 0.3)
    z = torch.randn(10, 2, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    torch.testing.assert_close(transport(q, z), q.means + 0.3 * z, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("rounds", [1, 2, 5])
def test_full_fits_without_a_network_multiply_the_weights(rounds: int) -> None:
    # Each round's pointwise minimiser is the field of the reweighted mixture; its samples are the next round's data.
    q, w = random_mixture(1, 3), torch.tensor([1.5, 1.0, 0.7], dtype=torch.float64)
    fitted = q
    for _ in range(rounds):
        fitted = fitted.reweighted(w)
    target = q.weights * w**rounds
    torch.testing.assert_close(fitted.weights, target / target.sum())
    quantiles = torch.distributions.Normal(0.0, 1.0).icdf((torch.arange(4000, dtype=torch.float64) + 0.5) / 4000)
    x = transport(fitted, quantiles[:, None])
    mean = float((target / target.sum() * q.means[:, 0]).sum())
    assert float(x.mean()) == pytest.approx(mean, abs=0.01)
    variance = float((target / target.sum() * (q.means[:, 0] - mean) ** 2).sum()) + q.std**2
    assert float(x.var()) == pytest.approx(variance, rel=0.01)


@pytest.mark.parametrize(
    ("means", "std", "weights"),
    [
        (torch.zeros(3), 1.0, None),
        (torch.zeros(3, 2), 0.0, None),
        (torch.zeros(3, 2), 1.0, torch.ones(2)),
        (torch.zeros(2, 2), 1.0, torch.tensor([1.0, -1.0])),
        (torch.zeros(2, 2), 1.0, torch.zeros(2)),
    ],
)
def test_impossible_mixtures_are_errors(means: Tensor, std: float, weights: Tensor | None) -> None:
    with pytest.raises(ValueError, match="expected"):
        GaussianMixture(means, std, weights)


@pytest.mark.parametrize("dim", [1, 2, 5])
def test_means_are_equally_spaced(dim: int) -> None:
    means = place_means(dim, 6, 4.0)
    gaps = (means[1:] - means[:-1]).norm(dim=1)
    torch.testing.assert_close(gaps, gaps[:1].expand(5))
    assert means.shape == (6, dim)
    assert float(means.norm(dim=1).max()) == pytest.approx(4.0)
