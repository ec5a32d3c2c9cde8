"""docs/theory.md: what perfect fits come to against closed forms, and training against perfect fits."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest
import torch

sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))
lab = importlib.import_module("laboratory")
theory = importlib.import_module("theory")

Q, P_0 = theory.REFERENCE, theory.P_0


@pytest.mark.parametrize("alpha", [0.0, 0.5, 4.0])
def test_perfect_fit_with_positive_weights_is_the_weighted_mean_of_two_mixtures(alpha):
    p, w = lab.tilt(P_0, 1.0), torch.tensor([2.0, 0.5, 1.0, 0.1, 0.7], dtype=torch.float64)
    x, t = lab.noise(50, 2) * 2, torch.tensor(0.6, dtype=torch.float64)
    current = Q.reweighted(p)
    expected_w = (current.responsibilities(t, x) * w).sum(1, keepdim=True)
    expected = (expected_w * current.reweighted(w).velocity(t, x) + alpha * Q.velocity(t, x)) / (expected_w + alpha)
    torch.testing.assert_close(lab.PerfectFit(Q, p, lab.constant(w), alpha).velocity(t, x, {}), expected)


def test_perfect_rounds_without_an_anchor_multiply_the_weights():
    rounds = lab.perfect_rounds(Q, lab.exp_weights(1.0), 0.0, 3)
    for n, p in enumerate(rounds):
        assert lab.total_variation(p, lab.tilt(P_0, n)) < 0.01 + 0.01 * n


def test_a_weak_reward_tilts_the_balance_by_kappa():
    # The same noise without a reward: what is off there is the noise's.
    kappa = theory.TAU / (10 * lab.spread(P_0))
    weights = [lab.advantages(tau, P_0, fade=0)(P_0) for tau in (theory.TAU, 0.0)]
    shares = [lab.shares_of(lab.PerfectFit(Q, P_0, w, 10.0), Q, 8192) for w in weights]
    target = lab.tilt(P_0, kappa)
    assert lab.total_variation(shares[0] - shares[1], target - P_0) < 0.15 * lab.total_variation(P_0, target)


def test_nearest_tilt_finds_a_tilt():
    strength, distance = lab.nearest_tilt(P_0, lab.tilt(P_0, 3.0))
    assert strength == pytest.approx(3.0)
    assert distance < 1e-9


@pytest.fixture
def one_thread():
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)
    torch.set_flush_denormal(False)


@pytest.mark.slow
def test_rounds_of_training_multiply_the_weights(one_thread):
    run = {**theory.exponential(0.0, 2.0), "sampler": theory.HARD, "train": theory.FULL}
    *_, (_, p) = lab.shares_by_round(2, **run)
    assert lab.total_variation(p, lab.tilt(P_0, 4.0)) < 0.05
    assert lab.total_variation(P_0, lab.tilt(P_0, 4.0)) > 0.4


@pytest.mark.slow
def test_the_default_ends_where_perfect_fits_do(one_thread):
    target = lab.perfect_rounds(Q, lab.advantages(theory.TAU, P_0), 1.0, 8, 0.5)[-1]
    *_, (_, p) = lab.shares_by_round(10, **theory.default(1.0), **theory.QUICK)
    assert lab.total_variation(p, target) < 0.05
    assert lab.total_variation(P_0, target) > 0.15
