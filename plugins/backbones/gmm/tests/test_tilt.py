"""Training on the mixture ends where theory says: the weights are tilted by the reward, or held by alpha."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from orwcfm_backbone_gmm.backbone import GmmBackbone
from orwcfm_backbone_gmm.component import ComponentReward
from orwcfm_backbone_gmm.plugin import ComponentRewardConfig, GmmConfig
from orwcfm_core.config import TrainConfig
from orwcfm_core.objective import Objective, Term
from orwcfm_core.orw_cfm import OrwCfm
from orwcfm_core.regularizer import Regularizer
from orwcfm_core.sampler import RungeKutta4
from orwcfm_core.trainer import Components, State
from orwcfm_core.weighting import Exp, Weighting
from torch import Tensor

CONFIG = GmmConfig(dim=1, components=3, radius=3.0, std=0.5, width=32)
VALUES = (0.9, 0.0, 0.3)


class SquaredDistance(Regularizer):
    """Mean square of `v - v_ref`."""

    def penalty(self, v: Tensor, v_ref: Tensor, t: Tensor, x: Tensor, weights: Tensor) -> Tensor:
        return (v - v_ref).square().mean(1)


class Shuffled(Weighting):
    """A mutation: right weights, each with another sample."""

    def weights(self, scores: Tensor, valid: Tensor, groups: Tensor) -> Tensor:
        w = Exp(1.0).weights(scores, valid, groups)
        return w[torch.randperm(len(w), generator=torch.Generator().manual_seed(0))]


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    yield
    torch.set_flush_denormal(False)
    torch.set_num_threads(threads)


def fit(weighting: Weighting, rounds: int, alpha: float = 0.0, updates: int = 300) -> State:
    """Train with a hard copy per round and many updates in it."""
    train = TrainConfig(
        rounds=rounds, samples=2048, updates=updates, lr=0.03, decay=0.0, micro_batch=4096, precision="fp32", seed=1
    )
    reward = ComponentRewardConfig(dim=1, components=3, radius=3.0, values=VALUES)
    parts = Components(
        backbone=GmmBackbone(CONFIG),
        objective=Objective([Term("component", ComponentReward(reward), points=True)]),
        regularizer=SquaredDistance(alpha),
        weighting=weighting,
        sampler=RungeKutta4(12),
    )
    trainer = OrwCfm(train)
    state = trainer.start(parts, 0.0, torch.device("cpu"))
    for _ in range(rounds):
        trainer.round(state)
    return state


def shares(state: State) -> Tensor:
    """The policy's share of each component, from equally likely noise instead of random noise."""
    quantiles = torch.distributions.Normal(0.0, 1.0).icdf((torch.arange(8192) + 0.5) / 8192)
    x = state.components.sampler.sample(state.components.backbone.policy(), quantiles[:, None], {}).x_1
    return state.components.backbone.mixture.posterior(x).mean(0).double()


def tilted(rounds: int) -> Tensor:
    """`w^N q`: what the shares are after N full fits."""
    return torch.softmax(rounds * torch.tensor(VALUES, dtype=torch.float64), 0)


def error(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).abs().max())


@pytest.mark.parametrize("rounds", [1, 3])
def test_full_fits_tilt_the_mixture_by_the_weights(rounds: int) -> None:
    # The samples of a round are off by about 0.01, and errors of rounds add up.
    found = shares(fit(Exp(1.0), rounds))
    assert error(found, tilted(rounds)) < 0.02 + 0.015 * rounds
    assert error(tilted(0), tilted(rounds)) > 0.15


def test_shuffled_weights_select_nothing() -> None:
    found = shares(fit(Shuffled(), 1))
    assert error(found, tilted(1)) > 0.1
    assert error(found, tilted(0)) < 0.05


def pointwise_minimiser(backbone: GmmBackbone, alpha: float, t: Tensor, x: Tensor) -> Tensor:
    """`v* = (E[w u | x_t] + alpha v_ref) / (E[w | x_t] + alpha)` for weights of mean 1."""
    w = torch.tensor(VALUES, dtype=torch.float64).exp()
    w = w / w.mean()
    expected_w = (backbone.mixture.responsibilities(t, x) * w).sum(1, keepdim=True)
    v_w = backbone.mixture.reweighted(w).velocity(t, x)
    return (expected_w * v_w + alpha * backbone.mixture.velocity(t, x)) / (expected_w + alpha)


@pytest.mark.parametrize("alpha", [0.0, 1.0])
def test_the_fit_is_the_pointwise_minimiser(alpha: float) -> None:
    state = fit(Exp(1.0), 1, alpha)
    backbone, g = state.components.backbone, torch.Generator().manual_seed(5)
    t = torch.rand(4000, generator=g, dtype=torch.float64)[:, None]
    x = (1 - t) * torch.randn(4000, 1, generator=g) + t * backbone.mixture.sample(4000, g, torch.float64)
    v = backbone.policy().velocity(t[:, 0], x, {}).detach()
    v_star = pointwise_minimiser(backbone, alpha, t[:, 0], x)
    other = pointwise_minimiser(backbone, 1 - alpha, t[:, 0], x)
    v_ref = backbone.mixture.velocity(t[:, 0], x)
    residual = float((v - v_star).square().mean())
    assert residual < 0.15 * float((v_star - v_ref).square().mean())
    assert residual < 0.5 * float((v - other).square().mean())


def test_large_alpha_stays_at_the_reference() -> None:
    state = fit(Exp(1.0), 2, alpha=1e3, updates=100)
    assert error(shares(state), tilted(0)) < 0.01
