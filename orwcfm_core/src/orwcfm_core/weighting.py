"""From scores to the weights of the regression.

All of it is computed in float64, and on the CPU, for some devices have no float64: squares of 1e-30 and sums of 1e38
do not fit into float32, and a reward may be either.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from orwcfm_core.config import (
    AdvantageConfig,
    ExpConfig,
    GroupAdvantageConfig,
    SoftmaxConfig,
    TopKConfig,
    WeightingConfig,
)

__all__ = ["Advantage", "Exp", "GroupAdvantage", "Softmax", "TopK", "Weighting", "build_weighting"]


_AT_ONCE = 4096
"""Points whose distances to all samples are in memory at once."""


class Weighting(ABC):
    """Turns scores into weights; non-negative weights have mean 1 over the valid samples."""

    @abstractmethod
    def weights(self, scores: Tensor, valid: Tensor, groups: Tensor) -> Tensor:
        """Weigh a round's samples.

        Args:
            scores: One per sample, `(B,)`, finite.
            valid: Which samples were scored, `(B,)` booleans.
            groups: Number of each sample's prompt, `(B,)` integers.

        Returns:
            Weights, `(B,)`, 0 where invalid.
        """

    def local(self, w: Tensor, t: Tensor, x_t: Tensor, x_1: Tensor, valid: Tensor, groups: Tensor) -> Tensor:
        """Weigh points on the paths to the samples; unless a weighting says otherwise, as the samples.

        Args:
            w: What `weights` returned, `(B,)`.
            t: Times of N points, those of the same sample side by side, `(N,)`; N is a multiple of B.
            x_t: The points, `(N, *)`.
            x_1: The samples, `(B, *)`.
            valid: As in `weights`.
            groups: As in `weights`.

        Returns:
            Weights, `(N,)`; negative only where some of `w` are.
        """
        return w.repeat_interleave(len(t) // len(w))

    def state(self) -> dict[str, float]:
        """What must survive a resume."""
        return {}

    def load_state(self, state: dict[str, float]) -> None:
        """Take back what `state` returned."""
        return


class Exp(Weighting):
    """The paper's weights, self-normalised over the batch: `w = n exp(tau r) / sum exp(tau r)`.

    References:
        Online Reward-Weighted Fine-Tuning of Flow Matching with Wasserstein Regularization (Fan et al., 2025),
        arXiv:2502.06061

    Args:
        tau: Inverse temperature, in units of 1 / score, at least 0.
    """

    def __init__(self, tau: float) -> None:
        self.tau = tau

    def weights(self, scores: Tensor, valid: Tensor, groups: Tensor) -> Tensor:
        return _normalised_exp(*_exact(scores, valid), self.tau).to(scores)


class Softmax(Weighting):
    """Exponential weights of standardised scores, per prompt: `w = n softmax(tau (r - mean) / std)`.

    The scale of the reward does not matter, and every prompt has the same total weight per sample.

    Args:
        tau: Inverse temperature in units of 1 / standard deviation, at least 0.
    """

    def __init__(self, tau: float) -> None:
        self.tau = tau

    def weights(self, scores: Tensor, valid: Tensor, groups: Tensor) -> Tensor:
        r, valid, groups = *_exact(scores, valid), groups.cpu()
        w = torch.zeros_like(r)
        for group in groups.unique():
            rows = valid & (groups == group)
            if rows.any():
                centred = r[rows] - r[rows].mean()
                std = float(r[rows].std(correction=0))
                z = centred / std if _is_spread(std, r[rows]) else torch.zeros_like(centred)
                w[rows] = _normalised_exp(z, torch.ones_like(rows[rows]), self.tau)
        return w.to(scores)


class TopK(Weighting):
    """Equal weights for the best fraction of each prompt's samples, none for the others.

    References:
        RAFT: Reward rAnked FineTuning for Generative Foundation Model Alignment (Dong et al., 2023), arXiv:2304.06767

    Args:
        fraction: Share of the samples that are kept, in (0, 1]; at least one per prompt.
    """

    def __init__(self, fraction: float) -> None:
        self.fraction = fraction

    def weights(self, scores: Tensor, valid: Tensor, groups: Tensor) -> Tensor:
        w = torch.zeros_like(scores)
        for group in groups.unique():
            rows = (valid & (groups == group)).nonzero().flatten()
            if len(rows):
                k = max(1, round(self.fraction * len(rows)))
                w[rows[scores[rows].topk(k).indices]] = len(rows) / k
        return w


class Advantage(Weighting):
    """Signed weights, centred per prompt: `w = tau (A - margin)`, `A = clip((r - mean) / scale, -clip, clip)`.

    The scale is the largest standard deviation within prompts of any round so far. At first the policy is the
    reference, so scores are measured in units of their spread under the reference; and as the policy converges and
    the spread shrinks, the weights shrink with it, instead of blowing up differences that no longer matter.

    A point on the path to a sample weighs `tau b(t) (A - V(x_t) - margin)`. The baseline V is the mean advantage of
    those `neighbours` other samples y of the prompt that the point most likely leads to, that is, with the smallest
    |x_t - t y|: where most of what can become of x_t is bad, one more bad sample says nothing. A - V is centred per
    prompt: some samples are neighbours of nearly all points, and must not raise or lower all weights. b is the
    density of Beta(1 + fade, 2), `(1 + fade) (2 + fade) t^fade (1 - t)`, or 1 if `fade` is 0: near noise, where a point
    hardly tells kinds of samples apart, and near data, where nothing is left to change, samples weigh less.

    On exact samples of the policy neither a constant added to the weights nor a function of x_t changes the expected
    gradient. On those that a sampler draws in a few steps a positive constant pulls towards their errors, and a
    negative one pushes away from them. So a margin can keep diversity (docs/results.md); one of more than
    alpha / (tau b) outweighs the pull of the reference.

    References:
        Advantage Weighted Matching (Xue et al., 2025), arXiv:2509.25050
        DiffusionNFT: Online Diffusion Reinforcement with Forward Process (Zheng et al., 2025), arXiv:2509.16117
        The Surprising Effectiveness of Negative Reinforcement in LLM Reasoning (Zhu et al., 2025), arXiv:2506.01347:
        more weight for bad samples keeps diversity
        Simple Statistical Gradient-Following Algorithms for Connectionist Reinforcement Learning (Williams, 1992):
        baselines
        Hubs in Space: Popular Nearest Neighbors in High-Dimensional Data (Radovanovic et al., JMLR 2010)

    Args:
        tau: Strength; the regression pulls towards the reference with alpha / tau.
        clip: Largest absolute advantage, before margin and tau.
        margin: What a sample must be better than the mean by for a positive weight, in units of the scale, at least 0.
        neighbours: Samples that the baseline is the mean of; 0 is none.
        fade: How much weights fade towards noise; with any, they fade towards data as well. At least 0.
    """

    def __init__(self, tau: float, clip: float, margin: float = 0.0, neighbours: int = 0, fade: float = 0.0) -> None:
        self.tau = tau
        self.clip = clip
        self.margin = margin
        self.neighbours = neighbours
        self.fade = fade
        self.scale = 0.0

    def weights(self, scores: Tensor, valid: Tensor, groups: Tensor) -> Tensor:
        r, valid, groups = *_exact(scores, valid), groups.cpu()
        centred = torch.zeros_like(r)
        for group in groups.unique():
            rows = valid & (groups == group)
            if rows.any():
                centred[rows] = r[rows] - r[rows].mean()
        spread = float((centred.square().sum() / valid.sum().clamp_min(1)).sqrt())
        if _is_spread(spread, r):
            self.scale = max(self.scale, spread)
        if self.scale == 0.0:
            return torch.zeros_like(scores)
        lowered = (centred / self.scale).clamp(-self.clip, self.clip) - self.margin
        return (self.tau * lowered * valid).to(scores)

    def local(self, w: Tensor, t: Tensor, x_t: Tensor, x_1: Tensor, valid: Tensor, groups: Tensor) -> Tensor:
        local = super().local(w, t, x_t, x_1, valid, groups)
        if self.neighbours and self.scale:
            # w is tau (A - margin), and baselines are means of tau A.
            margin = self.tau * self.margin
            baselines = nearest_mean(self.neighbours, torch.where(valid, w + margin, 0.0), t, x_t, x_1, valid, groups)
            local = _centred(local + margin - baselines, valid, groups) - margin
            local = local * valid.repeat_interleave(len(t) // len(w))
        return local * ((1 + self.fade) * (2 + self.fade)) * t**self.fade * (1 - t) if self.fade else local

    def state(self) -> dict[str, float]:
        return {"scale": self.scale}

    def load_state(self, state: dict[str, float]) -> None:
        self.scale = state["scale"]


class GroupAdvantage(Weighting):
    """GRPO's advantage: `w = tau clip((r - mean) / std, -clip, clip)`, the mean over the prompt's samples.

    Unlike `Advantage`, the unit is the spread of this round's scores, which shrinks as the policy converges. Where
    there is no spread but rounding, w is 0.

    References:
        Flow-GRPO: Training Flow Matching Models via Online RL (Liu et al., 2025), arXiv:2505.05470

    Args:
        tau: Strength.
        clip: Largest absolute advantage before tau.
        spread: Whose standard deviation: `prompt` (of the samples of the same prompt) or `round` (of all scores).
    """

    def __init__(self, tau: float, clip: float, spread: str) -> None:
        self.tau = tau
        self.clip = clip
        self.spread = spread

    def weights(self, scores: Tensor, valid: Tensor, groups: Tensor) -> Tensor:
        r, valid, groups = *_exact(scores, valid), groups.cpu()
        w = torch.zeros_like(r)
        for group in groups[valid].unique():
            rows = valid & (groups == group)
            std = float(r[rows if self.spread == "prompt" else valid].std(correction=0))
            if _is_spread(std, r):
                w[rows] = ((r[rows] - r[rows].mean()) / std).clamp(-self.clip, self.clip)
        return (self.tau * w).to(scores)


def nearest_mean(
    count: int, values: Tensor, t: Tensor, x_t: Tensor, x_1: Tensor, valid: Tensor, groups: Tensor
) -> Tensor:
    """Mean of values over the samples that a point most likely leads to, its own left out.

    Args:
        count: Samples to take, at least 1; fewer where the prompt has fewer.
        values: One per sample, `(B,)`.
        t: As in `Weighting.local`.
        x_t: As in `Weighting.local`.
        x_1: As in `Weighting.local`.
        valid: Which samples may be taken, `(B,)`.
        groups: As in `Weighting.local`; only samples of the own prompt are taken.

    Returns:
        `(N,)`, 0 where there is no sample to take.
    """
    y, lengths = x_1.flatten(1).float(), x_1.flatten(1).float().square().sum(1)
    means = []
    # In parts, for there are as many distances as points times samples.
    for points in torch.arange(len(t), device=t.device).split(_AT_ONCE):
        own = points // (len(t) // len(x_1))
        # (|x_t - t y|^2 - |x_t|^2) / t, which has the same order, at t = 0 as well.
        distances = t[points, None] * lengths - 2 * x_t[points].flatten(1).float() @ y.T
        others = valid & (groups[own, None] == groups)
        others[torch.arange(len(own), device=t.device), own] = False
        near = distances.masked_fill_(~others, torch.inf).topk(min(count, len(x_1)), largest=False)
        found = near.values.isfinite()
        means.append((values[near.indices] * found).sum(1) / found.sum(1).clamp_min(1))
    return torch.cat(means)


def _centred(values: Tensor, valid: Tensor, groups: Tensor) -> Tensor:
    """Values of points, `(N,)`, less their mean over the points of the prompt that lead to valid samples."""
    draws = len(values) // len(groups)
    of_sample = values.view(-1, draws).mean(1)
    means = []
    # In parts, as in `nearest_mean`, and without a sum whose order a GPU leaves open.
    for part in groups.split(_AT_ONCE):
        same = (part[:, None] == groups) & valid
        means.append((same * of_sample).sum(1) / same.sum(1).clamp_min(1))
    return values - torch.cat(means).repeat_interleave(draws)


def _exact(scores: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
    """Scores in float64, 0 where invalid, and which are valid; both on the CPU."""
    valid = valid.cpu()
    return torch.where(valid, scores.cpu().double(), 0.0), valid


def _normalised_exp(r: Tensor, valid: Tensor, tau: float) -> Tensor:
    """`n softmax(tau r)` over the n valid entries, 0 elsewhere; any tau times float32 fits into float64."""
    if not valid.any():
        return torch.zeros_like(r)
    exponents = tau * (r - r[valid].amax())
    return exponents.masked_fill(~valid, -torch.inf).softmax(0) * valid.sum()


def _is_spread(std: float, scores: Tensor) -> bool:
    """Whether scores vary by more than the rounding of their mean."""
    return std > 1e-6 * float(scores.abs().amax())


def build_weighting(config: WeightingConfig) -> Weighting:
    """The weighting that a configuration describes."""
    match config:
        case ExpConfig():
            return Exp(config.tau)
        case SoftmaxConfig():
            return Softmax(config.tau)
        case TopKConfig():
            return TopK(config.fraction)
        case AdvantageConfig():
            return Advantage(config.tau, config.clip, config.margin, config.neighbours, config.fade)
        case GroupAdvantageConfig():
            return GroupAdvantage(config.tau, config.clip, config.spread)
    raise TypeError(f"expected a weighting's configuration, got {type(config).__name__}")
