"""Numbers that break arithmetic: weights stay finite and keep their promises, and so do the policy's."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from orwcfm_core.config import WEIGHTINGS, JudgeConfig
from orwcfm_core.metrics import diversity, mean_and_std
from orwcfm_core.objective import Objective, Term
from orwcfm_core.reward import OnError
from orwcfm_core.testing.fakes import FunctionReward
from orwcfm_core.weighting import Advantage, Exp, Softmax, TopK, Weighting, build_weighting
from pydantic import ValidationError
from torch import Tensor

REPEATABLE = settings(max_examples=300, derandomize=True, deadline=None)
SCORES = st.one_of(
    # Denormal numbers are flushed, here as in a run.
    st.floats(width=32, allow_nan=False, allow_infinity=False, allow_subnormal=False),
    st.sampled_from([0.0, -0.0, 1.0, 1e4, -1e4, 1e-30, 2e-30, -1e-30, 3.4e38, -3.4e38]),
)
TAUS = st.one_of(st.just(0.0), st.floats(0, 1e6, allow_subnormal=False), st.sampled_from([1e-300, 1e-6, 1.0, 1e6]))


@st.composite
def batches(draw: Any) -> tuple[Tensor, Tensor, Tensor]:
    """Scores, which are valid, and groups; groups of one, constant scores and nothing valid are among them."""
    n = draw(st.integers(1, 12))
    scores = draw(st.lists(SCORES, min_size=n, max_size=n) | SCORES.map(lambda r: [r] * n))
    valid = draw(st.lists(st.booleans(), min_size=n, max_size=n) | st.just([True] * n))
    groups = draw(st.lists(st.integers(0, 4), min_size=n, max_size=n))
    return torch.tensor(scores, dtype=torch.float32), torch.tensor(valid), torch.tensor(groups)


def weightings(tau: float, clip: float, fraction: float) -> list[Weighting]:
    return [Exp(tau), Softmax(tau), TopK(fraction), Advantage(tau, clip)]


@REPEATABLE
@given(batches(), TAUS, st.floats(1e-3, 100), st.floats(1e-3, 1))
def test_weights_keep_their_promises_whatever_the_scores(batch: Any, tau: float, clip: float, fraction: float) -> None:
    scores, valid, groups = batch
    for weighting in weightings(tau, clip, fraction):
        # Several rounds: one that remembers must not remember anything bad.
        for factor in (1.0, -0.5, 0.0):
            w = weighting.weights(scores * factor, valid, groups)
            assert w.dtype == torch.float32
            assert w.isfinite().all()
            assert not w[~valid].any()
            if isinstance(weighting, Advantage):
                assert float(w.abs().max()) <= tau * clip * (1 + 1e-6)
            elif valid.any():
                assert (w >= 0).all()
                assert float(w[valid].double().mean()) == pytest.approx(1, abs=1e-5)
        assert all(math.isfinite(value) for value in weighting.state().values())


@REPEATABLE
@given(batches(), TAUS)
def test_a_better_score_never_weighs_less(batch: Any, tau: float) -> None:
    scores, valid, _ = batch
    one = torch.zeros(len(scores), dtype=torch.long)
    for weighting in weightings(tau, 3.0, 0.5):
        w = weighting.weights(scores, valid, one)[valid]
        best = scores[valid].sort(stable=True)
        ordered = w[best.indices]
        # Of equal scores, top-k takes some and leaves others.
        rises = best.values.diff() > 0
        assert (ordered.diff()[rises] >= -1e-6 * tau - 1e-6).all()


@REPEATABLE
@given(st.lists(st.floats(-1e4, 1e4, width=32, allow_subnormal=False), min_size=1, max_size=8), st.integers(0, 40))
def test_exp_equals_exact_arithmetic(scores: list[float], tau: int) -> None:
    # e^x by its series in rational numbers: an oracle without floating point.
    r = torch.tensor(scores)
    w = Exp(float(tau)).weights(r, torch.ones(len(r), dtype=torch.bool), torch.zeros(len(r), dtype=torch.long))
    exponents = [tau * (Fraction(float(x)) - Fraction(float(r.max()))) for x in r]
    e = [Fraction(0) if x < -60 else exponential(x) for x in exponents]
    for got, expected in zip(w.tolist(), (float(len(e) * x / sum(e)) for x in e), strict=True):
        assert got == pytest.approx(expected, rel=1e-5, abs=1e-20)


def exponential(x: Fraction) -> Fraction:
    """e^x to 30 digits, by the series of x / 2^7."""
    small = (x / 128).limit_denominator(10**40)
    total, power = Fraction(1), Fraction(1)
    for k in range(1, 25):
        power = power * small / k
        total += power
    total = total.limit_denominator(10**40)
    for _ in range(7):
        total = (total * total).limit_denominator(10**50)
    return total


@pytest.mark.parametrize("unit", [1e-36, 1e-30, 1e-6, 1.0, 1e4, 1e30])
@pytest.mark.parametrize("name", ["softmax", "advantage"])
def test_the_unit_of_a_reward_does_not_matter(name: str, unit: float) -> None:
    r = torch.tensor([1.0, 3.0, 4.0, 2.0, 8.0, 5.0])
    groups, valid = torch.tensor([0, 0, 0, 1, 1, 1]), torch.ones(6, dtype=torch.bool)
    expected = build_weighting(WEIGHTINGS[name]()).weights(r, valid, groups)
    torch.testing.assert_close(build_weighting(WEIGHTINGS[name]()).weights(r * unit, valid, groups), expected)
    assert expected.unique().numel() > 3


REWARDS = {
    "constant": lambda x: torch.full((len(x),), 0.7),
    "zero": lambda x: torch.zeros(len(x)),
    "large": lambda x: 1e4 * x[:, 0],
    "huge": lambda x: 1e38 * x[:, 0].clamp(-3, 3),
    "tiny": lambda x: 1e-30 * x[:, 0],
    "one outlier": lambda x: torch.where(torch.arange(len(x)) == 3, 1e30, x[:, 0]),
}


@pytest.mark.parametrize("reward", REWARDS)
@pytest.mark.parametrize("tau", [0.0, 1.0, 1e6])
@pytest.mark.parametrize("name", WEIGHTINGS)
def test_a_policy_stays_finite_over_rounds(lab: Any, name: str, tau: float, reward: str) -> None:
    options = {} if name == "top-k" else {"tau": tau}
    weighting = build_weighting(WEIGHTINGS[name](**options))
    trainer, state = lab.start(REWARDS[reward], weighting, rounds=6, samples=16, updates=2, lr=0.01, ema=0.5)
    for _ in range(6):
        metrics = trainer.round(state)
        assert all(p.isfinite().all() for p in (*state.ema.parameters, *state.ema.average))
        assert all(value is None or math.isfinite(value) for value in metrics.values())


@pytest.mark.parametrize("weighting", [Exp(1.0), Softmax(1.0), TopK(0.25), Advantage(1.0, 3.0)])
def test_one_sample_per_group_is_well_behaved(lab: Any, weighting: Weighting) -> None:
    trainer, state = lab.start(weighting=weighting, samples=4)
    state.components.prompts = ("a", "b", "c", "d")
    for _ in range(3):
        assert math.isfinite(trainer.round(state)["loss"])


def test_a_combination_beyond_float32_is_invalid() -> None:
    large, small = FunctionReward(lambda x: x[:, 0]), FunctionReward(lambda x: x[:, 1])
    objective = Objective([Term("large", large, points=True, weight=1e30), Term("small", small, points=True)])
    scored = objective.score(torch.tensor([[1e10, 1.0], [0.0, 1.0]]), torch.zeros(2, 1, 1, 1), ["", ""])
    assert scored.valid.tolist() == [False, True]


@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
def test_mean_and_spread_of_any_scale(scale: float) -> None:
    mean, std = mean_and_std(torch.tensor([1.0, 3.0]) * scale)
    assert (mean, std) == (pytest.approx(2 * scale, rel=1e-6), pytest.approx(scale, rel=1e-6))


def test_diversity_of_many_samples_is_that_of_the_first_ones() -> None:
    features = torch.randn(6000, 3, generator=torch.Generator().manual_seed(0))
    assert diversity(features) == diversity(features[:4096])
    # On a sphere in three dimensions, pairs are 4/3 apart on average.
    assert diversity(features) == pytest.approx(4 / 3, abs=0.01)


@REPEATABLE
@given(st.from_regex(JudgeConfig.model_fields["on_error"].metadata[0].pattern, fullmatch=True))
def test_a_policy_for_errors_is_refused_or_of_finite_score(text: str) -> None:
    try:
        policy = OnError.parse(JudgeConfig(on_error=text).on_error)
    except ValidationError:
        assert text.startswith("penalise")
        assert abs(float(text[9:-1])) > 1e30
        return
    assert abs(policy.score) <= 1e30
    assert 0 <= policy.retries <= 999
    assert policy.action in ("fail", "drop", "penalise")
