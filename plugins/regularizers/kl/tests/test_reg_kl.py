"""The path KL against the exact KL of joint Gaussians."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pytest
import torch
from orwcfm_reg_kl.plugin import Config, orwcfm_regularizers
from orwcfm_reg_kl.regularizer import PathKL
from pydantic import ValidationError

NOISE = 0.7


class Affine(NamedTuple):
    """The velocity field v(t, x) = a(t) x + b(t) of one dimension, with a and b linear in t."""

    a: tuple[float, float]
    b: tuple[float, float]

    def at(self, t: float) -> tuple[float, float]:
        return self.a[0] + self.a[1] * t, self.b[0] + self.b[1] * t


def sde(slope: float, offset: float, t: float, noise: float) -> tuple[float, float, float]:
    """Drift (slope and offset) and squared noise level of the SDE, put together from velocity and score."""
    variance = noise**2 * (1 - t) / t
    score_slope, score_offset = (t * slope - 1) / (1 - t), t * offset / (1 - t)
    return slope + variance / 2 * score_slope, offset + variance / 2 * score_offset, variance


def path_law(field: Affine, times: np.ndarray, dt: float, noise: float) -> tuple[np.ndarray, np.ndarray]:
    """Mean and covariance of the Euler-Maruyama path from N(0, 1), all its points together."""
    n = len(times) + 1
    response, mean = np.zeros((n, n)), np.zeros(n)
    response[0, 0] = 1.0
    for k, t in enumerate(times):
        slope, offset, variance = sde(*field.at(t), t, noise)
        response[k + 1] = (1 + slope * dt) * response[k]
        response[k + 1, k + 1] = np.sqrt(variance * dt)
        mean[k + 1] = (1 + slope * dt) * mean[k] + offset * dt
    return mean, response @ response.T


def gaussian_kl(mean: np.ndarray, cov: np.ndarray, mean_ref: np.ndarray, cov_ref: np.ndarray) -> float:
    """KL between two normal distributions."""
    gap = mean_ref - mean
    trace = np.trace(np.linalg.solve(cov_ref, cov))
    logs = np.linalg.slogdet(cov_ref)[1] - np.linalg.slogdet(cov)[1]
    return 0.5 * float(trace - len(mean) + gap @ np.linalg.solve(cov_ref, gap) + logs)


def integral(fields: tuple[Affine, Affine], times: np.ndarray, dt: float, noise: float) -> float:
    """The penalty's expectation along the policy's path, summed over time; the quadrature is exact for squares."""
    mean, cov = path_law(fields[0], times, dt, noise)
    nodes, weights = np.polynomial.hermite_e.hermegauss(3)
    penalty = PathKL(Config(noise=noise, t_max=0.99))
    total = 0.0
    for k, t in enumerate(times):
        x = torch.tensor(mean[k] + np.sqrt(cov[k, k]) * nodes).view(-1, 1)
        v, v_ref = (slope * x + offset for slope, offset in (field.at(t) for field in fields))
        value = penalty.penalty(v, v_ref, torch.full((3,), float(t), dtype=torch.float64), x, torch.ones(3))
        total += dt * float(value @ torch.tensor(weights / weights.sum()))
    return total


@pytest.mark.parametrize("noise", [0.4, NOISE, 1.5])
@pytest.mark.parametrize(
    "fields",
    [
        (Affine((0.5, -0.2), (1.0, 0.3)), Affine((0.5, -0.2), (0.2, 0.1))),
        (Affine((-0.4, 0.9), (0.0, 0.5)), Affine((0.3, 0.2), (-0.5, 0.0))),
    ],
)
def test_it_is_the_kl_of_the_paths(fields: tuple[Affine, Affine], noise: float) -> None:
    steps, begin, end = 60, 0.1, 0.9
    dt = (end - begin) / steps
    times = begin + dt * np.arange(steps)
    exact = gaussian_kl(*path_law(fields[0], times, dt, noise), *path_law(fields[1], times, dt, noise))
    assert exact > 0.05
    assert integral(fields, times, dt, noise) == pytest.approx(exact, rel=1e-6)


def test_the_oracle_keeps_the_marginals_of_the_flow() -> None:
    # Data N(m, r^2): x_t is N(t m, (1-t)^2 + t^2 r^2), and its velocity is affine in x. Started at small t from
    # N(0, 1), the SDE must arrive there, whatever its noise.
    m, r, begin, end, steps = 0.8, 0.5, 0.02, 0.9, 2000
    dt = (end - begin) / steps
    mean, variance = begin * m, (1 - begin) ** 2 + begin**2 * r**2
    for t in begin + dt * np.arange(steps):
        spread = (1 - t) ** 2 + t**2 * r**2
        slope = (t * r**2 - (1 - t)) / spread
        drift, offset, noise2 = sde(slope, m - slope * t * m, t, NOISE)
        mean, variance = (1 + drift * dt) * mean + offset * dt, (1 + drift * dt) ** 2 * variance + noise2 * dt
    assert mean == pytest.approx(end * m, rel=0.01)
    assert variance == pytest.approx((1 - end) ** 2 + end**2 * r**2, rel=0.02)


def test_one_value_per_sample_averaged_over_dimensions() -> None:
    kl = PathKL(Config())
    v = torch.randn(4, 2, 3, 3)
    t = torch.tensor([0.0, 0.3, 0.3, 0.6])
    one = kl.penalty(v, torch.zeros_like(v), t, v, torch.ones(4))
    assert one.shape == (4,)
    assert one[0] == 0
    twice = kl.penalty(v.repeat(1, 2, 1, 1), torch.zeros(4, 4, 3, 3), t, v, torch.ones(4))
    torch.testing.assert_close(one, twice)


def test_times_after_t_max_count_as_t_max() -> None:
    kl = PathKL(Config(t_max=0.9))
    v = torch.ones(4, 2)
    t = torch.tensor([0.8, 0.9, 0.95, 1.0])
    values = kl.penalty(v, torch.zeros(4, 2), t, v, torch.ones(4)).tolist()
    assert values[0] < values[1] == values[2] == values[3]


@pytest.mark.parametrize("options", [{"alpha": -1}, {"noise": 0}, {"t_max": 1}, {"t_max": 0}, {"beta": 1}])
def test_wrong_options(options: dict[str, object]) -> None:
    (spec,) = orwcfm_regularizers()
    with pytest.raises(ValidationError):
        spec.config.model_validate(options)
