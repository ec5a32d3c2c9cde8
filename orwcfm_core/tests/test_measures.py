"""Measures against closed forms and against the intervals' own promise."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import scipy.linalg
import torch
from orwcfm_core.backbone import Condition, VelocityField
from orwcfm_core.measures import (
    Estimate,
    bootstrap,
    distance_estimate,
    frechet_distance,
    mean_estimate,
    path_divergence,
    share_estimate,
    vendi_estimate,
)
from orwcfm_core.metrics import diversity
from torch import Tensor


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(n: int, d: int, seed: int = 0) -> Tensor:
    return torch.randn(n, d, generator=generator(seed), dtype=torch.float64)


@pytest.mark.parametrize("k", [1, 2, 7])
@pytest.mark.parametrize("dim", [8, 400])
def test_vendi_of_k_equal_clusters_is_k(k: int, dim: int) -> None:
    corners = torch.linalg.qr(normal(dim, dim))[0][:k]
    scale = torch.linspace(0.5, 3, 30 * k)[:, None]
    assert vendi_estimate(corners.repeat(30, 1) * scale).value == pytest.approx(k, rel=1e-9)


@pytest.mark.parametrize("shape", [(30, 5), (20, 90)])
def test_vendi_by_its_definition(shape: tuple[int, int]) -> None:
    x = normal(*shape)
    unit = x.numpy() / np.linalg.norm(x.numpy(), axis=1, keepdims=True)
    values = scipy.linalg.eigvalsh(unit @ unit.T / len(unit))
    values = values[values > 1e-12]
    assert vendi_estimate(x).value == pytest.approx(math.exp(-(values * np.log(values)).sum()), rel=1e-9)


def test_the_interval_of_vendi_is_the_same_by_either_matrix() -> None:
    # With zeros added to every row nothing changes but the matrix that is decomposed.
    x = normal(60, 40)
    wide = torch.cat([x, torch.zeros(60, 40, dtype=x.dtype)], 1)
    assert vendi_estimate(wide) == pytest.approx(vendi_estimate(x), rel=1e-9)


def test_frechet_distance_of_two_gaussians() -> None:
    n, d = 200_000, 4
    mix = [normal(d, d, seed) for seed in (1, 2)]
    shift = torch.tensor([1.0, 0, -2, 0.5], dtype=torch.float64)
    a, b = normal(n, d, 3) @ mix[0], normal(n, d, 4) @ mix[1] + shift
    A, B = (m.T.numpy() @ m.numpy() for m in mix)
    exact = float(shift @ shift) + np.trace(A + B - 2 * scipy.linalg.sqrtm(A @ B).real)
    assert frechet_distance(a, b) == pytest.approx(exact, rel=0.02)
    assert frechet_distance(b, a) == pytest.approx(frechet_distance(a, b), rel=1e-9)


def test_frechet_distance_by_its_definition() -> None:
    a, b = normal(50, 6), 2 * normal(40, 6, 1) + 1
    A, B = (np.cov(x.numpy().T) for x in (a, b))
    trace = np.trace(A + B - 2 * scipy.linalg.sqrtm(A @ B).real)
    exact = float((a.mean(0) - b.mean(0)).square().sum()) + trace
    assert frechet_distance(a, b) == pytest.approx(exact, rel=1e-9)


def test_frechet_distance_to_itself_and_in_one_dimension() -> None:
    x = normal(20, 50)
    assert frechet_distance(x, x) == pytest.approx(0, abs=1e-5)
    a, b = normal(30, 1), 3 * normal(30, 1, 1)
    expected = (a.mean() - b.mean()).square() + (a.std() - b.std()).square()
    assert frechet_distance(a, b) == pytest.approx(float(expected), rel=1e-9)


@pytest.mark.parametrize("normalised", [True, False])
def test_mean_distance(normalised: bool) -> None:
    x = 3 * normal(700, 3) + 1
    numbers = x.numpy() / np.linalg.norm(x.numpy(), axis=1, keepdims=True) if normalised else x.numpy()
    difference = np.linalg.norm(numbers[:, None] - numbers[None], axis=2)
    found = distance_estimate(x, normalised)
    assert found.value == pytest.approx(difference.sum() / (700 * 699), rel=1e-9)
    if normalised:
        assert found.value == pytest.approx(diversity(x), rel=1e-9)


def test_the_variance_of_the_mean_distance_is_the_jackknife() -> None:
    x = normal(12, 2)
    left_out = [distance_estimate(torch.cat([x[:i], x[i + 1 :]]), False).value for i in range(12)]
    error = math.sqrt(11 / 12 * np.square(np.array(left_out) - np.mean(left_out)).sum())
    found = distance_estimate(x, False)
    assert (found.high - found.low) / 2 == pytest.approx(1.959964 * error, rel=1e-6)


@pytest.mark.parametrize(("hits", "n", "low", "high"), [(0, 10, 0.0, 0.2775), (81, 263, 0.2553, 0.3662)])
def test_wilson_interval_against_published_values(hits: int, n: int, low: float, high: float) -> None:
    # Newcombe, Two-sided confidence intervals for the single proportion (1998), table I.
    found = share_estimate(torch.arange(n) < hits)
    assert (found.value, found.low, found.high) == pytest.approx((hits / n, low, high), abs=1e-4)


def coverage(estimate: Callable[[int], Estimate], truth: float, trials: int) -> float:
    found = [estimate(seed) for seed in range(trials)]
    return sum(e.low <= truth <= e.high for e in found) / trials


def exponential(n: int, seed: int) -> Tensor:
    return torch.empty(n, dtype=torch.float64).exponential_(generator=generator(seed))


def test_coverage_of_the_bootstrap() -> None:
    def of_mean(seed: int) -> Estimate:
        return bootstrap(lambda x: float(x.mean()), [exponential(100, seed)], 200, generator(seed + 10_000))

    assert coverage(of_mean, 1.0, 400) == pytest.approx(0.945, abs=0.03)


def test_coverage_of_the_bootstrap_for_the_frechet_distance() -> None:
    def of_distance(seed: int) -> Estimate:
        samples = [normal(600, 2, seed), 1.5 * normal(600, 2, seed + 5_000) + 1]
        return bootstrap(frechet_distance, samples, 60, generator(seed))

    assert coverage(of_distance, 2 + 2 * 0.25, 200) == pytest.approx(0.95, abs=0.04)


def test_paired_rows_are_drawn_together() -> None:
    x = normal(50, 3)
    found = bootstrap(lambda a, b: float((a - b).abs().max()), [x, x + 1], 20, generator(), paired=True)
    assert (found.value, found.low, found.high) == pytest.approx((1, 1, 1))


def test_coverage_of_the_mean_the_mean_distance_and_vendi() -> None:
    assert coverage(lambda s: mean_estimate(exponential(300, s)), 1.0, 400) == pytest.approx(0.945, abs=0.03)
    # The distance of two standard normal numbers has mean 2 / sqrt(pi).
    assert coverage(
        lambda s: distance_estimate(normal(100, 1, s), False), 2 / math.sqrt(math.pi), 400
    ) == pytest.approx(0.945, abs=0.03)
    shares = torch.tensor([0.6, 0.3, 0.1], dtype=torch.float64)

    def of_vendi(seed: int) -> Estimate:
        return vendi_estimate(torch.eye(3)[shares.multinomial(500, replacement=True, generator=generator(seed))])

    assert coverage(of_vendi, math.exp(-float((shares * shares.log()).sum())), 400) == pytest.approx(0.945, abs=0.03)


class Field(VelocityField):
    """`v = a x + b`."""

    def __init__(self, a: float, b: float) -> None:
        self.a, self.b = a, b

    def velocity(self, t: Tensor, x: Tensor, condition: Condition) -> Tensor:
        return self.a * x + self.b


def test_path_divergence_of_linear_fields() -> None:
    noise = normal(5, 3)
    offset = path_divergence(Field(0.7, 0.3), Field(0.7, 0.0), noise, {}, 4)
    assert offset.tolist() == pytest.approx([0.09] * 5)
    # x_t = e^(a t) z against a field that is 0 everywhere: a^2 z^2 (e^(2a) - 1) / (2a).
    a = 0.8
    expected = a * math.expm1(2 * a) / 2 * noise.square().mean(1)
    assert path_divergence(Field(a, 0), Field(0, 0), noise, {}, 60).tolist() == pytest.approx(
        expected.tolist(), rel=1e-3
    )
