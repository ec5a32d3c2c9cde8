"""The mixture on which theory is measured: runs on it, and what they come to if every fit is perfect."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from orwcfm_backbone_gmm.backbone import GmmBackbone
from orwcfm_backbone_gmm.mixture import GaussianMixture
from orwcfm_cli.assemble import assemble
from orwcfm_core.backbone import Condition, VelocityField
from orwcfm_core.registry import Registry
from orwcfm_core.resolve import resolve
from orwcfm_core.sampler import RungeKutta4
from orwcfm_core.trainer import State, Trainer
from torch import Tensor

REWARDS = torch.tensor([1.0, 0.7, 0.4, 0.2, 0.0], dtype=torch.float64)
GEOMETRY: Mapping[str, Any] = {
    "name": "gmm",
    "dim": 2,
    "components": len(REWARDS),
    "radius": 3.0,
    "std": 0.5,
    "width": 32,
}
SAMPLES, UPDATES = 1024, 50

PointWeights = Callable[[Tensor, Tensor], Tensor]
"""Weights of components at points, `(B, K)`, by the time and the probabilities of each component, `(B, K)`."""

Weights = Callable[[Tensor], PointWeights]
"""The same, by the shares of the sampling policy, `(K,)`."""


def start(rounds: int, **tables: Mapping[str, Any]) -> tuple[Trainer, State]:
    """A run whose rounds nearly are full fits, but for what `tables` say."""
    train = {"rounds": rounds, "samples": SAMPLES, "updates": UPDATES, "lr": 0.01, "micro_batch": 4096}
    own = {"precision": "fp32", "device": "cpu", "threads": 1, "seed": 1}
    config = {
        "backbone": GEOMETRY,
        "reward": {"name": "component", "values": REWARDS.tolist()},
        "heldout": {"name": "none"},
        "sampler": {"name": "rk4", "steps": 12, **tables.get("sampler", {})},
        "train": {**train, **own, **tables.get("train", {})},
    }
    return assemble(resolve({**tables, **config}, Registry()))


def shares_by_round(rounds: int, **tables: Mapping[str, Any]) -> Iterator[tuple[State, Tensor]]:
    """The run and the policy's share of each component, `(K,)`, before the first round and after each."""
    trainer, state = start(rounds, **tables)
    yield state, shares(state)
    for _ in range(rounds):
        trainer.round(state)
        yield state, shares(state)


def mixture(state: State) -> GaussianMixture:
    backbone = state.components.backbone
    assert isinstance(backbone, GmmBackbone)
    return backbone.mixture


def noise(count: int, dim: int) -> Tensor:
    """The same standard normal points each time, in pairs about 0, `(B, d)`."""
    half = torch.randn(count // 2, dim, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    return torch.cat([half, -half])


def shares(state: State) -> Tensor:
    """The policy's share of each component, `(K,)`."""
    q = mixture(state)
    policy = state.components.backbone.policy()
    return shares_of(policy, q, 8192, 12)


def shares_of(field: VelocityField, q: GaussianMixture, count: int = 2048, steps: int = 12) -> Tensor:
    x_1 = RungeKutta4(steps).sample(field, noise(count, q.means.shape[1]), {}).x_1
    return q.posterior(x_1).mean(0)


class PerfectFit(VelocityField):
    """The pointwise minimiser of a round's loss on samples of a mixture p with the components of q.

    With the probability p_k(t, x) of component k given x_t = x, its weight w_k(t, x), and the loss of `OrwCfm`,

        v(t, x) = ( sum_k p_k |w_k| E[y_t | x_t, k] + alpha v_ref ) / ( sum_k p_k |w_k| + alpha )

    y_t = u_t where w_k is positive. Where it is negative y_t depends on v_old: that is v itself at a fixed point, found
    by `repeats` such steps from v_ref, the expectation over u_t with `draws` Gaussian points.

    Args:
        q: The reference.
        p: Shares of the sampling policy, `(K,)`.
        weights: Weights of the components.
        alpha: Strength of `w2`.
        capped: Whether y_t is within 2 |v_ref - u_t| of v_ref, as it is in training, or anywhere.
        repeats: Steps.
        draws: Points, even.
    """

    def __init__(
        self,
        q: GaussianMixture,
        p: Tensor,
        weights: PointWeights,
        alpha: float,
        capped: bool = True,
        repeats: int = 20,
        draws: int = 8,
    ) -> None:
        self.q, self.p, self.weights, self.alpha, self.capped = q, q.reweighted(p / q.weights), weights, alpha, capped
        self.repeats = repeats
        self.spread = noise(draws, q.means.shape[1])

    def velocity(self, t: Tensor, x: Tensor, condition: Condition) -> Tensor:
        s, mu, std = t.to(x), self.q.means, self.q.std
        variance = (1 - s) ** 2 + (s * std) ** 2
        means = mu + (s * std**2 - (1 - s)) / variance * (x[:, None] - s * mu)
        v_ref, posterior = self.q.velocity(t, x), self.p.responsibilities(t, x)
        w = self.weights(s, posterior)
        mass = posterior * w.abs()
        good, bad = (mass * (w > 0))[..., None], (mass * (w < 0))[..., None]
        total = mass.sum(1, keepdim=True) + self.alpha
        fixed = (good * means).sum(1) + self.alpha * v_ref
        if not bad.any():
            return fixed / total
        u = means[:, :, None] + std / variance.sqrt() * self.spread
        reference = v_ref[:, None, None]
        limit = 2 * (reference - u).norm(dim=-1, keepdim=True)
        v = v_ref
        for _ in range(self.repeats):
            away = 2 * v[:, None, None] - u - reference
            c = (limit / away.norm(dim=-1, keepdim=True).clamp_min(1e-9)).clamp_max(1) if self.capped else 1.0
            mirrored = v_ref[:, None] + (c * away).mean(2)
            v = (fixed + (bad * mirrored).sum(1)) / total
        return v


def perfect_rounds(
    q: GaussianMixture, weights: Weights, alpha: float, rounds: int, kept: float = 0.0, capped: bool = True
) -> list[Tensor]:
    """Shares before the first perfect round and after each, `(K,)`; `kept` of the old ones is mixed in."""
    found = [q.weights]
    for _ in range(rounds):
        p = found[-1]
        found.append(kept * p + (1 - kept) * shares_of(PerfectFit(q, p, weights(p), alpha, capped), q))
    return found


def exp_weights(tau: float) -> Weights:
    """`exp(tau r)` of mean 1 under p."""

    def weights(p: Tensor) -> PointWeights:
        w = (tau * REWARDS).exp()
        return constant(w / (p * w).sum())

    return weights


def constant(w: Tensor) -> PointWeights:
    """The same weights `(K,)` at each point."""
    return lambda t, posterior: w.expand_as(posterior)


def advantages(tau: float, p_0: Tensor, fade: float = 1.0) -> Weights:
    """`tau b(t) (r - E[r | x_t]) / scale`, the scale under p_0; b as in `Advantage`."""
    scale = spread(p_0)

    def weights(t: Tensor, posterior: Tensor) -> Tensor:
        relative = REWARDS - (posterior * REWARDS).sum(1, keepdim=True)
        return tau * ((1 + fade) * (2 + fade) * t**fade * (1 - t) if fade else 1) * relative / scale

    return lambda p: weights


def spread(p: Tensor) -> float:
    """Standard deviation of the reward."""
    return float(((p * REWARDS**2).sum() - (p * REWARDS).sum() ** 2).sqrt())


def tilt(p_0: Tensor, strength: float) -> Tensor:
    """`p_0 exp(strength r)`, normalised."""
    return (p_0.log() + strength * REWARDS).softmax(0)


def nearest_tilt(p_0: Tensor, p: Tensor) -> tuple[float, float]:
    """The strength 1 / lambda, up to 60, of the tilt that is nearest to p in total variation, and that distance."""
    strengths = torch.linspace(0, 60, 6001, dtype=torch.float64).tolist()
    distance, strength = min((total_variation(tilt(p_0, strength), p), strength) for strength in strengths)
    return strength, distance


def total_variation(p: Tensor, q: Tensor) -> float:
    return 0.5 * float((p - q).abs().sum())
