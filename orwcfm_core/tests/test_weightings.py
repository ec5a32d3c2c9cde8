"""Weightings: what theory and bookkeeping ask of them."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from orwcfm_core.weighting import Advantage, Exp, GroupAdvantage, Softmax, TopK, Weighting, nearest_mean
from torch import Tensor

POSITIVE: dict[str, Callable[[], Weighting]] = {
    "exp": lambda: Exp(2.0),
    "softmax": lambda: Softmax(1.5),
    "top-k": lambda: TopK(0.4),
}
ALL = POSITIVE | {
    "advantage": lambda: Advantage(1.0, 1.0),
    "advantage with a margin": lambda: Advantage(1.0, 1.0, 0.1),
    "group-advantage": lambda: GroupAdvantage(1.0, 5.0, "prompt"),
    "group-advantage of the round": lambda: GroupAdvantage(1.0, 5.0, "round"),
}


def batch(n: int = 24, groups: int = 3) -> tuple[Tensor, Tensor, Tensor]:
    g = torch.Generator().manual_seed(1)
    scores = torch.randn(n, generator=g)
    valid = torch.rand(n, generator=g) > 0.2
    return torch.where(valid, scores, 0.0), valid, torch.arange(n) % groups


def everything(n: int) -> tuple[Tensor, Tensor]:
    return torch.ones(n, dtype=torch.bool), torch.zeros(n, dtype=torch.long)


@pytest.mark.parametrize("name", POSITIVE)
def test_mean_is_one_over_valid_samples(name: str) -> None:
    scores, valid, groups = batch()
    w = POSITIVE[name]().weights(scores, valid, groups)
    assert (w >= 0).all()
    assert float(w[valid].mean()) == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("name", ["softmax", "top-k"])
def test_mean_is_one_in_every_group(name: str) -> None:
    scores, valid, groups = batch()
    w = POSITIVE[name]().weights(scores, valid, groups)
    for group in range(3):
        assert float(w[valid & (groups == group)].mean()) == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("name", ALL)
def test_invalid_samples_have_weight_zero_and_no_influence(name: str) -> None:
    scores, valid, groups = batch()
    w = ALL[name]().weights(scores, valid, groups)
    assert (w[~valid] == 0).all()
    other = ALL[name]().weights(torch.where(valid, scores, 77.0), valid, groups)
    assert torch.equal(w, other)


@pytest.mark.parametrize("name", ALL)
def test_no_valid_sample_at_all(name: str) -> None:
    scores, valid, groups = batch()
    assert not ALL[name]().weights(scores, torch.zeros_like(valid), groups).any()


@pytest.mark.parametrize("name", ALL)
def test_huge_scores_do_not_overflow(name: str) -> None:
    scores = torch.tensor([1e4, 2e4, -1e4, 0.0])
    w = ALL[name]().weights(scores, *everything(4))
    assert w.isfinite().all()
    assert w[1] == w.max() > 0


@pytest.mark.parametrize("name", ["exp", "softmax"])
@pytest.mark.parametrize("constant", [0.0, 0.1, -3.3, 1e4])
def test_constant_scores_weigh_one(name: str, constant: float) -> None:
    w = ALL[name]().weights(torch.full((7,), constant), *everything(7))
    torch.testing.assert_close(w, torch.ones(7))


@pytest.mark.parametrize("constant", [0.0, 0.1, 0.7, 123.456])
@pytest.mark.parametrize("n", [1, 7, 10, 100])
def test_constant_scores_give_no_advantage(constant: float, n: int) -> None:
    # In float32 the mean of seven 0.1 is not 0.1: a rounding error must not be taken for a spread.
    w = Advantage(1.0, 1.0).weights(torch.full((n,), constant), *everything(n))
    assert float(w.abs().max()) < 1e-3


@pytest.mark.parametrize("weighting", [Exp(0.0), Softmax(0.0), TopK(1.0)], ids=["exp", "softmax", "top-k"])
def test_tau_zero_or_all_kept_is_uniform(weighting: Weighting) -> None:
    scores, valid, groups = batch()
    torch.testing.assert_close(weighting.weights(scores, valid, groups), valid.float())


@pytest.mark.parametrize("name", ALL)
def test_group_of_one(name: str) -> None:
    w = ALL[name]().weights(torch.tensor([0.3, -0.2, 5.0]), torch.ones(3, dtype=torch.bool), torch.arange(3))
    assert w.isfinite().all()
    if name in ("softmax", "top-k"):
        torch.testing.assert_close(w, torch.ones(3))
    if name == "advantage":
        assert not w.any()


@pytest.mark.parametrize("name", ALL)
def test_weights_move_with_the_batch(name: str) -> None:
    scores, valid, groups = batch()
    order = torch.randperm(len(scores), generator=torch.Generator().manual_seed(2))
    w = ALL[name]().weights(scores, valid, groups)
    torch.testing.assert_close(ALL[name]().weights(scores[order], valid[order], groups[order]), w[order])


def test_exp_has_the_ratios_of_the_paper() -> None:
    scores = torch.tensor([0.1, 0.9, -0.4], dtype=torch.float64)
    w = Exp(2.0).weights(scores, *everything(3))
    for i in range(3):
        for j in range(3):
            assert float(w[i] / w[j]) == pytest.approx(math.exp(2 * float(scores[i] - scores[j])))


@pytest.mark.parametrize(("scale", "shift"), [(1000.0, 5.0), (1e-3, -1.0)])
@pytest.mark.parametrize("name", ["softmax", "advantage"])
def test_scale_and_offset_of_the_reward_do_not_matter(name: str, scale: float, shift: float) -> None:
    scores, valid, groups = batch()
    a = ALL[name]().weights(scores.double(), valid, groups)
    b = ALL[name]().weights(scores.double() * scale + shift, valid, groups)
    torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("scores", "fraction", "kept"),
    [([1.0] * 8, 0.25, 2), ([3.0, 2, 2, 2, 1, 0], 0.5, 3), ([1.0, 2.0, 3.0], 0.01, 1), ([5.0], 0.25, 1)],
)
def test_top_k_keeps_its_count_even_with_ties(scores: list[float], fraction: float, kept: int) -> None:
    r = torch.tensor(scores)
    w = TopK(fraction).weights(r, *everything(len(r)))
    assert int((w > 0).sum()) == kept
    assert float(w.mean()) == pytest.approx(1)
    assert float(r[w > 0].min()) >= float(r.sort(descending=True).values[kept - 1])


def test_advantage_is_centred_per_prompt() -> None:
    scores, valid, groups = batch()
    scores = scores + 10.0 * groups
    w = Advantage(1.0, 100.0).weights(torch.where(valid, scores, 0.0), valid, groups)
    for group in range(3):
        assert float(w[groups == group].sum()) == pytest.approx(0, abs=1e-4)
    assert float(w[valid].square().mean()) == pytest.approx(1, abs=1e-4)


def test_advantage_is_clipped_and_scaled() -> None:
    w = Advantage(0.5, 1.0).weights(torch.tensor([0.0] * 9 + [10.0]), *everything(10))
    assert float(w.max()) == pytest.approx(0.5)
    assert float(w.min()) >= -0.5


def test_a_margin_lowers_the_weights_of_valid_samples_where_scores_vary() -> None:
    scores, valid, groups = batch()
    w = Advantage(0.5, 2.0).weights(scores, valid, groups)
    lowered = Advantage(0.5, 2.0, margin=0.3).weights(scores, valid, groups)
    torch.testing.assert_close(lowered, torch.where(valid, w - 0.15, 0.0))
    assert not Advantage(0.5, 2.0, margin=0.3).weights(torch.ones(7), *everything(7)).any()


def test_advantage_shrinks_with_the_spread_and_its_scale_survives_a_resume() -> None:
    scores, valid, groups = batch()
    first = Advantage(1.0, 100.0)
    w = first.weights(scores, valid, groups)
    resumed = Advantage(1.0, 100.0)
    resumed.load_state(first.state())
    for weighting in (first, resumed):
        torch.testing.assert_close(weighting.weights(scores / 10, valid, groups), w / 10)
    assert first.state() == resumed.state()


def points(draws: int, dim: int = 3) -> tuple[Tensor, Tensor, Tensor]:
    """Times, points on paths and the samples of `batch` that these lead to."""
    g = torch.Generator().manual_seed(3)
    x_1 = torch.randn(24, dim, generator=g)
    t = torch.rand(24 * draws, generator=g)
    t[:2] = torch.tensor([0.0, 1.0])
    s = t[:, None]
    return t, (1 - s) * torch.randn(len(t), dim, generator=g) + s * x_1.repeat_interleave(draws, dim=0), x_1


@pytest.mark.parametrize("name", [name for name in ALL if name != "advantage"])
def test_points_weigh_what_their_samples_do_unless_neighbours_are_asked_for(name: str) -> None:
    scores, valid, groups = batch()
    weighting = ALL[name]()
    w = weighting.weights(scores, valid, groups)
    assert torch.equal(weighting.local(w, *points(2), valid, groups), w.repeat_interleave(2))


@pytest.mark.parametrize("draws", [1, 3])
@pytest.mark.parametrize("count", [1, 4, 100])
def test_baseline_is_the_mean_of_the_nearest_other_samples_of_the_prompt(draws: int, count: int) -> None:
    values, valid, groups = batch()
    t, x_t, x_1 = points(draws)
    found = nearest_mean(count, values, t, x_t, x_1, valid, groups)
    for n, (time, x) in enumerate(zip(t.double(), x_t.double(), strict=True)):
        own = n // draws
        others = [j for j in range(24) if j != own and valid[j] and groups[j] == groups[own]]
        # At t = 0 distances are all the same; their order is that of the limit.
        time = time.clamp_min(1e-7)
        others.sort(key=lambda j: float((x - time * x_1[j].double()).square().sum()))
        assert float(found[n]) == pytest.approx(float(values[others[:count]].mean()), abs=1e-5)


def test_a_baseline_does_not_depend_on_how_many_points_are_in_memory_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    values, valid, groups = batch()
    whole = nearest_mean(3, values, *points(2), valid, groups)
    monkeypatch.setattr("orwcfm_core.weighting._AT_ONCE", 7)
    torch.testing.assert_close(nearest_mean(3, values, *points(2), valid, groups), whole)


def test_a_sample_alone_with_its_prompt_has_no_baseline() -> None:
    scores, (t, x_t, x_1) = torch.randn(24), points(1)
    alone = torch.arange(24)
    assert not nearest_mean(4, scores, t, x_t, x_1, torch.ones(24, dtype=torch.bool), alone).any()


@pytest.mark.parametrize("fade", [0.5, 1.0, 2.0])
def test_local_weights_are_relative_to_the_baseline_lowered_and_fade(fade: float) -> None:
    scores, valid, groups = batch()
    t, x_t, x_1 = points(2)
    plain, weighting = Advantage(0.8, 2.0), Advantage(0.8, 2.0, 0.3, neighbours=3, fade=fade)
    advantages = plain.weights(scores, valid, groups)
    baselines = nearest_mean(3, advantages, t, x_t, x_1, valid, groups)
    relative = advantages.repeat_interleave(2) - baselines
    for group in range(3):
        rows = (valid & (groups == group)).repeat_interleave(2)
        relative[rows] -= relative[rows].mean()
    density = torch.distributions.Beta(1 + fade, 2.0).log_prob(t).exp()
    expected = (relative - 0.8 * 0.3) * density
    w = weighting.local(weighting.weights(scores, valid, groups), t, x_t, x_1, valid, groups)
    torch.testing.assert_close(w, torch.where(valid.repeat_interleave(2), expected, 0.0))


def test_popular_neighbours_do_not_raise_or_lower_all_weights() -> None:
    # In the middle of a sphere is one sample, the best: it is the nearest of nearly every point.
    x_1 = torch.nn.functional.normalize(torch.randn(24, 50, generator=torch.Generator().manual_seed(0)), dim=1)
    x_1[0] = 0
    t = torch.full((48,), 0.9)
    valid, groups = everything(24)
    # Clipped, advantages do not have mean 0 either.
    weighting = Advantage(1.0, 3.0, neighbours=1)
    w = weighting.weights(torch.eye(24)[0], valid, groups)
    assert float(w.mean()) < -0.05
    x_t = 0.9 * x_1.repeat_interleave(2, dim=0)
    assert float(nearest_mean(1, w, t, x_t, x_1, valid, groups).mean()) > 1
    assert float(weighting.local(w, t, x_t, x_1, valid, groups).mean()) == pytest.approx(0, abs=1e-6)


def test_where_all_neighbours_are_as_good_only_the_margin_is_left() -> None:
    # Two kinds of samples, far apart, one good and one bad: near data every point knows which it leads to.
    scores = torch.tensor([0.0, 1.0]).repeat(12)
    x_1 = 100 * scores[:, None] + points(1)[2]
    t = torch.full((24,), 0.9)
    x_t = 0.1 * points(1)[1] + 0.9 * x_1
    weighting = Advantage(1.0, 2.0, 0.25, neighbours=4)
    valid, groups = everything(24)
    w = weighting.local(weighting.weights(scores, valid, groups), t, x_t, x_1, valid, groups)
    torch.testing.assert_close(w, torch.full((24,), -0.25))


def test_equal_scores_weigh_nothing_at_points_as_well() -> None:
    weighting = Advantage(1.0, 2.0, 0.25, neighbours=4, fade=1.0)
    w = weighting.weights(torch.ones(24), *everything(24))
    assert not weighting.local(w, *points(1), *everything(24)).any()


def test_a_baseline_changes_no_expected_gradient() -> None:
    # Standard normal samples, whose velocity at x_t is known: times what is left of u_t, a function of x_t and of other
    # samples has mean 0. With the own sample among the neighbours it has not.
    g = torch.Generator().manual_seed(0)
    valid, groups = everything(64)
    means: dict[bool, list[Tensor]] = {True: [], False: []}
    for _ in range(1600):
        x_1, x_0 = torch.randn(64, 2, generator=g), torch.randn(64, 2, generator=g)
        t = torch.rand(64, generator=g)
        s = t[:, None]
        x_t = (1 - s) * x_0 + s * x_1
        left = x_1 - x_0 - (2 * s - 1) / ((1 - s) ** 2 + s**2) * x_t
        reward = x_1[:, 0]
        others = nearest_mean(1, reward, t, x_t, x_1, valid, groups)
        nearest = (x_t[:, None] - s[:, None] * x_1).square().sum(2).topk(1, largest=False).indices
        for excluded, baseline in ((True, others), (False, reward[nearest].mean(1))):
            means[excluded].append((baseline * left[:, 0]).mean())
    t_values = {
        excluded: float(torch.stack(found).mean() / torch.stack(found).std()) * 40 for excluded, found in means.items()
    }
    assert abs(t_values[True]) < 3
    assert abs(t_values[False]) > 6


@pytest.mark.parametrize("name", POSITIVE)
def test_others_have_no_state(name: str) -> None:
    weighting = POSITIVE[name]()
    weighting.weights(*batch())
    assert weighting.state() == {}


@pytest.mark.parametrize(
    ("spread", "expected"),
    [
        ("prompt", [-1.0, 1.0, -1.0, 1.0]),
        # All four scores deviate from their mean, 2.25, by 2.25, 1.25, 0.25 and 3.75.
        ("round", [x / math.sqrt((2.25**2 + 1.25**2 + 0.25**2 + 3.75**2) / 4) for x in (-0.5, 0.5, -2.0, 2.0)]),
    ],
)
def test_group_advantage_has_the_spread_of_this_round(spread: str, expected: list[float]) -> None:
    scores, groups = torch.tensor([0.0, 1.0, 2.0, 6.0]), torch.tensor([0, 0, 1, 1])
    w = GroupAdvantage(3.0, 5.0, spread).weights(scores, everything(4)[0], groups)
    assert w.tolist() == pytest.approx([3 * x for x in expected], rel=1e-6)
    small = GroupAdvantage(3.0, 5.0, spread).weights(1e-4 * scores, everything(4)[0], groups)
    torch.testing.assert_close(small, w, rtol=1e-4, atol=1e-5)
    clipped = GroupAdvantage(3.0, 0.1, spread).weights(scores, everything(4)[0], groups)
    assert clipped.abs().tolist() == pytest.approx([0.3] * 4, rel=1e-6)


def test_group_advantage_of_equal_scores_is_zero() -> None:
    assert not GroupAdvantage(1.0, 5.0, "prompt").weights(torch.full((7,), 0.1), *everything(7)).any()
