"""Several rewards as one: scales, combinations, and what survives a resume."""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence

import pytest
import torch
from orwcfm_core.errors import RunError, UserError
from orwcfm_core.evaluation import scales
from orwcfm_core.objective import Objective, Scored, Term
from orwcfm_core.regularizer import Regularizer, Sum, penalise
from orwcfm_core.reward import Reward, Scores
from torch import Tensor


class Column(Reward):
    """Scores a column of the points; what is not finite is invalid."""

    def __init__(self, index: int) -> None:
        self.index = index

    def score(self, images: Tensor, prompts: Sequence[str]) -> Scores:
        return Scores(images[:, self.index].nan_to_num(7.0), images[:, self.index].isfinite())


def objective(combine: str = "sum", **first: object) -> Objective:
    """Columns 0 and 1, with weights 2 and 0.5."""
    terms = [Term("zero", Column(0), True, weight=2.0, **first), Term("one", Column(1), True, weight=0.5)]
    return Objective(terms, combine)


def scored(of: Objective, *points: tuple[float, float], prompts: Sequence[str] | None = None) -> Scored:
    x = torch.tensor(points)
    return of.score(x, torch.zeros(len(x), 1, 2, 2), prompts or [""] * len(x))


@pytest.mark.parametrize(
    ("combine", "expected"), [("sum", [8.5, 6.5]), ("product", [16.0, 3.0]), ("minimum", [0.5, 2.0])]
)
def test_combinations(combine: str, expected: list[float]) -> None:
    found = scored(objective(combine), (4.0, 1.0), (1.0, 9.0))
    assert found.values.tolist() == found.signal.tolist() == expected


def test_a_single_reward_is_left_as_it_is() -> None:
    alone = Objective([Term("zero", Column(0), True)])
    assert not alone.composed
    assert scored(alone, (0.1, 0.0), (-3.0, 0.0)).signal.tolist() == torch.tensor([0.1, -3.0]).tolist()


def test_what_one_reward_cannot_score_is_invalid_for_all() -> None:
    found = scored(objective(), (1.0, float("nan")), (float("nan"), 1.0), (1.0, 1.0))
    assert found.valid.tolist() == [False, False, True]


def test_z_score_looks_back_on_a_window_and_reports_on_the_first_scale() -> None:
    of = Objective([Term("zero", Column(0), True, normalise="z-score", window=4)])
    first = scored(of, (0.0, 0.0), (2.0, 0.0), (4.0, 0.0), (6.0, 0.0))
    std = statistics.pstdev([0, 2, 4, 6])
    torch.testing.assert_close(first.values, (torch.tensor([0.0, 2, 4, 6]) - 3) / std)
    torch.testing.assert_close(first.signal, first.values)

    of.observe({"zero": torch.tensor([10.0, 14.0, 99.0])}, torch.tensor([True, True, False]))
    later = scored(of, (12.0, 0.0))
    torch.testing.assert_close(later.values, torch.tensor([(12.0 - 3) / std]))
    window = [4.0, 6.0, 10.0, 14.0]
    expected = (12.0 - statistics.mean(window)) / statistics.pstdev(window)
    torch.testing.assert_close(later.signal, torch.tensor([expected]))


def test_per_prompt_compares_only_with_the_same_prompt() -> None:
    of = Objective([Term("zero", Column(0), True, normalise="per-prompt")])
    found = scored(of, (1.0, 0.0), (3.0, 0.0), (100.0, 0.0), (300.0, 0.0), prompts=["a", "a", "b", "b"])
    torch.testing.assert_close(found.signal, torch.tensor([-1.0, 1.0, -1.0, 1.0]))
    assert scored(of, (5.0, 0.0), prompts=["a"]).signal.tolist() == [0.0]


@pytest.mark.parametrize("normalise", ["z-score", "per-prompt"])
def test_constant_scores_are_zero_not_nan(normalise: str) -> None:
    of = Objective([Term("zero", Column(0), True, normalise=normalise)])
    found = scored(of, (0.1, 0.0), (0.1, 0.0), (0.1, 0.0))
    assert found.values.tolist() == found.signal.tolist() == [0.0, 0.0, 0.0]


def test_what_varies_only_later_shows_on_the_scale_that_never_changes() -> None:
    of = Objective([Term("zero", Column(0), True, normalise="z-score")])
    scored(of, (2.0, 0.0), (2.0, 0.0))
    assert scored(of, (2.0, 0.0), (5.0, 0.0)).values.tolist() == [0.0, 3.0]


def test_scales_of_rewards_do_not_matter_once_normalised() -> None:
    x = torch.randn(64, 2, generator=torch.Generator().manual_seed(0))
    small, large = (
        Objective(
            [Term("zero", Column(0), True, normalise="z-score"), Term("one", Column(1), True, normalise="z-score")]
        )
        for _ in range(2)
    )
    stretched = x * torch.tensor([1.0, 1000.0]) + torch.tensor([0.0, 5.0])
    images = torch.zeros(64, 1, 2, 2)
    torch.testing.assert_close(
        small.score(x, images, [""] * 64).signal, large.score(stretched, images, [""] * 64).signal, atol=1e-4, rtol=1e-4
    )


def test_a_product_refuses_scores_below_zero() -> None:
    with pytest.raises(UserError, match="a product needs scores of at least 0, and reward 'one' gave -1"):
        scored(objective("product"), (1.0, -1.0))


def test_state_survives_json_exactly() -> None:
    of = objective(normalise="z-score", window=3)
    scored(of, (0.1, 0.0), (0.7, 0.0), (1 / 3, 0.0), (2.0, 1.0))
    again = objective(normalise="z-score", window=3)
    again.load_state(json.loads(json.dumps(of.state())))
    assert torch.equal(scored(again, (0.3, 0.2)).signal, scored(of, (0.3, 0.2)).signal)
    assert again.state() == of.state()


def test_scales_report_mean_spread_and_correlation() -> None:
    a = torch.tensor([0.0, 1.0, 2.0, 3.0])
    found = scales({"a": a, "minus": 5 - 2 * a, "flat": torch.ones(4)})
    assert found["rewards"]["minus"]["mean"] == pytest.approx(2.0)
    assert found["rewards"]["minus"]["std"] == pytest.approx(2 * statistics.pstdev([0, 1, 2, 3]))
    assert found["correlations"]["a"] == {"minus": pytest.approx(-1.0), "flat": None}


def test_the_metrics_of_a_round_have_each_reward_before_combining(lab) -> None:
    trainer, state = lab.start(samples=16)
    assert not any(
        key.startswith("reward_") and key not in ("reward_mean", "reward_std") for key in trainer.round(state)
    )
    state.components.objective = objective(normalise="z-score")
    metrics = trainer.round(state)
    assert {"reward_zero", "reward_one"} <= metrics.keys()


class Square(Regularizer):
    """`scale |v - v_ref|^2`."""

    def __init__(self, alpha: float, scale: float) -> None:
        super().__init__(alpha)
        self.scale = scale

    def penalty(self, v: Tensor, v_ref: Tensor, t: Tensor, x: Tensor, weights: Tensor) -> Tensor:
        return self.scale * (v - v_ref).square().sum(1)


@pytest.mark.parametrize("alphas", [(0.1, 0.01), (0.0, 0.3), (0.0, 0.0)])
def test_several_regularizers_add_up(alphas: tuple[float, float]) -> None:
    v, v_ref = torch.rand(3, 2), torch.rand(3, 2)
    parts = {"one": Square(alphas[0], 1.0), "two": Square(alphas[1], 5.0)}
    nothing = torch.zeros(3)
    together = Sum(parts)
    term = penalise(together, v, v_ref, nothing, v, nothing).cost
    expected = sum(penalise(p, v, v_ref, nothing, v, nothing).cost for p in parts.values())
    torch.testing.assert_close(term, expected)


def test_a_regularizer_that_fails_among_several_is_named() -> None:
    class Wrong(Square):
        def penalty(self, v: Tensor, v_ref: Tensor, t: Tensor, x: Tensor, weights: Tensor) -> Tensor:
            return v.sum()

    v, nothing = torch.rand(3, 2), torch.zeros(3)
    with pytest.raises(RunError, match="regularizer Wrong: returned shape"):
        penalise(Sum({"fine": Square(1.0, 1.0), "wrong": Wrong(1.0, 1.0)}), v, v, nothing, v, nothing)
