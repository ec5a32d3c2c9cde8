"""Flow-GRPO as a training method of this framework, written for comparison alone.

References:
    Flow-GRPO: Training Flow Matching Models via Online RL (Liu et al., 2025), https://arxiv.org/abs/2505.05470, and the
    settings of its published code for SD3.5-M, https://github.com/yifan123/flow_grpo.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from orwcfm_core.backbone import Condition, VelocityField, select
from orwcfm_core.config import TrainConfig
from orwcfm_core.metrics import mean_and_std
from orwcfm_core.trainer import State, Trainer
from torch import Tensor

__all__ = [
    "FlowGrpo",
    "Options",
    "Path",
    "advantages",
    "gaussian_kl",
    "log_prob",
    "noise_level",
    "roll_out",
    "step_mean",
]


@dataclass(frozen=True)
class Options:
    """Settings of Flow-GRPO; the defaults are those of its published code.

    Args:
        steps: Steps of the stochastic sampler.
        trained: Of these, the first that are trained on (`timestep_fraction` 0.99 of 10 steps).
        noise: Noise level a.
        clip: The ratio is clipped to `1 -+ clip`, for log-probabilities that are means over dimensions.
        beta: Weight of the KL divergence of a step. The published 0.04 multiplies |mean - mean_ref|^2 / (2 sigma^2),
            which is the step's length h = 0.1 times the KL divergence: 0.004.
        largest_advantage: Advantages are clipped to it.
    """

    steps: int = 10
    trained: int = 9
    noise: float = 0.7
    clip: float = 1e-4
    beta: float = 0.004
    largest_advantage: float = 5.0


class Path(NamedTuple):
    """What the stochastic sampler went through, S steps of B samples.

    Args:
        points: From noise to samples, `(S + 1, B, *)`.
        log_probs: Of each step, `(S, B)`.
    """

    points: Tensor
    log_probs: Tensor


def noise_level(t: float, h: float, a: float) -> float:
    """Noise `sigma_t = a sqrt((1-t) / t)` of the SDE at time t, with `t = h` where it would be infinite, at t = 0.

    Flow-GRPO writes it `a sqrt(t / (1-t))` with noise at t = 1 (its section 4.1); here time runs the other way, and its
    code takes the noise of the second step's time in the denominator of the first.

    Args:
        t: Time of the step's beginning, in [0, 1); 0 is noise.
        h: Length of the step.
        a: Flow-GRPO's noise level.
    """
    return a * math.sqrt((1 - t) / max(t, h))


def step_mean(v: Tensor, x: Tensor, t: float, h: float, sigma: float) -> Tensor:
    """Mean of an Euler-Maruyama step of the SDE that has the marginals of the flow `dx = v dt`.

    On x_t = (1-t) x_0 + t x_1 with Gaussian x_0 the score is `s = (t v - x) / (1-t)`, so that

        dx = [v + sigma_t^2 / 2 s] dt + sigma_t dW,    x_{t+h} ~ N(x + h (v + sigma_t^2 / 2 s), sigma_t^2 h I)

    which is Flow-GRPO's eq. 9 with its time t' = 1 - t and its velocity v' = -v:
    `x - h [v' + sigma^2 / (2 t') (x + (1 - t') v')]`.

    Args:
        v: Velocity at (t, x), `(B, *)`.
        x: Where the step begins, `(B, *)`.
        t: When it begins, in [0, 1).
        h: Its length.
        sigma: Noise of the SDE during the step.
    """
    score = (t * v - x) / (1 - t)
    return x + h * (v + sigma**2 / 2 * score)


def log_prob(x_next: Tensor, mean: Tensor, std: float) -> Tensor:
    """`log N(x_next; mean, std^2 I)`, `(B,)`, as a mean over dimensions, which is how the published code has it."""
    z = (x_next - mean) / std
    return -(z.square() / 2).flatten(1).mean(1) - math.log(std) - math.log(2 * math.pi) / 2


def gaussian_kl(mean: Tensor, mean_ref: Tensor, std: float) -> Tensor:
    """KL divergence of two steps of one std, `|mean - mean_ref|^2 / (2 std^2)`, `(B,)`; a mean over dimensions."""
    return (mean - mean_ref).flatten(1).square().mean(1) / (2 * std**2)


def advantages(scores: Tensor, groups: Tensor, largest: float) -> Tensor:
    """`(r - mean of its group) / std of all`, clipped, `(B,)`.

    Args:
        scores: `(B,)`.
        groups: Number of each sample's prompt, `(B,)`.
        largest: Where to clip.
    """
    centred = torch.zeros_like(scores)
    for group in groups.unique():
        rows = groups == group
        centred[rows] = scores[rows] - scores[rows].mean()
    return (centred / (scores.std(correction=0) + 1e-4)).clamp(-largest, largest)


@torch.no_grad()
def roll_out(
    field: VelocityField, noise: Tensor, condition: Condition, options: Options, generator: torch.Generator
) -> Path:
    """Sample with the SDE.

    Args:
        field: Whose velocity it follows.
        noise: `(B, *)`.
        condition: For B samples.
        options: Steps and noise level.
        generator: Of the noise of each step.
    """
    x = noise
    points, log_probs = [x], []
    for i in range(options.steps):
        mean, std = transition(field, i, x, condition, options)
        epsilon = torch.randn(x.shape, generator=generator, dtype=x.dtype, device=x.device)
        x = mean + std * epsilon
        points.append(x)
        log_probs.append(log_prob(x, mean, std))
    return Path(torch.stack(points), torch.stack(log_probs))


def transition(field: VelocityField, i: int, x: Tensor, condition: Condition, options: Options) -> tuple[Tensor, float]:
    """Mean `(B, *)` and standard deviation of step i from `x`, `(B, *)`."""
    h = 1 / options.steps
    t = i * h
    # What follows the network is not left to autocast: a ratio of likelihoods differs from 1 in the fourth digit.
    v = field.velocity(torch.tensor(t, dtype=x.dtype, device=x.device), x, condition).to(x.dtype)
    sigma = noise_level(t, h, options.noise)
    return step_mean(v, x, t, h, sigma), sigma * math.sqrt(h)


class FlowGrpo(Trainer):
    """Policy gradient on the steps of a stochastic sampler, clipped as in PPO, with advantages relative to a group.

    Each round draws paths with the policy and minimises over their steps

        E[ -min(rho A, clip(rho, 1 - clip, 1 + clip) A) + beta KL(p(. | x_t) | p_ref(. | x_t)) ],
        rho = p(x_{t+h} | x_t) / p_old(x_{t+h} | x_t)

    in `train.updates` updates, each on its share of the samples and on all trained steps of their paths, as the
    published code does (there 2 per round).

    Args:
        config: Options of section `train`: samples, updates, learning rate (constant) and the norm of the gradient.
        options: Those of Flow-GRPO itself.
    """

    def __init__(self, config: TrainConfig, options: Options) -> None:
        super().__init__(config)
        self.options = options

    def round(self, state: State) -> dict[str, Any]:
        began = time.perf_counter()
        parts, count = state.components, self.config.samples
        numbers = [(state.round * count + i) % len(parts.prompts) for i in range(count)]
        prompts, groups = [parts.prompts[n] for n in numbers], torch.tensor(numbers, device=state.device)
        condition, policy = parts.backbone.encode(prompts), parts.backbone.policy()

        with state.autocast():
            path = roll_out(policy, state.noise(count), condition, self.options, state.generator)
        x_1 = path.points[-1]
        scored = parts.objective.score(x_1, parts.backbone.to_images(x_1), prompts)
        a = advantages(scored.signal, groups, self.options.largest_advantage)
        order = torch.randperm(count, generator=state.generator, device=state.device)
        trace = [self._update(state, path, a, condition, rows) for rows in order.chunk(self.config.updates)]
        state.ema.update()
        state.round += 1
        return {
            "round": state.round,
            "reward_mean": mean_and_std(scored.values)[0],
            "nfe": count * self.options.steps + sum(update["nfe"] for update in trace),
            "seconds": time.perf_counter() - began,
            **{name: trace[-1][name] for name in ("kl", "clipped", "grad_norm")},
            "ratio_error": trace[0]["ratio_error"],
        }

    def _update(self, state: State, path: Path, a: Tensor, condition: Condition, rows: Tensor) -> dict[str, Any]:
        """One step of the optimiser on all trained steps of some paths."""
        for group in state.optimizer.param_groups:
            group["lr"] = self.config.lr
        state.optimizer.zero_grad()
        found = self.gradient(state, path, a, condition, rows)
        norm = float(torch.nn.utils.clip_grad_norm_(state.ema.parameters, self.config.clip_norm))
        state.optimizer.step()
        return found | {"grad_norm": norm, "nfe": 2 * len(rows) * self.options.trained}

    def gradient(self, state: State, path: Path, a: Tensor, condition: Condition, rows: Tensor) -> dict[str, float]:
        """Add the gradient of the mean loss over samples and steps to the policy's parameters.

        Args:
            state: The run.
            path: What was sampled.
            a: Advantages, `(B,)`.
            condition: For B samples.
            rows: Which of them to train on.

        Returns:
            Means over samples and steps: `kl`, `clipped` (share of ratios outside) and `ratio_error`, `|rho - 1|`.
        """
        options, sums = self.options, {"kl": 0.0, "clipped": 0.0, "ratio_error": 0.0}
        backbone, own = state.components.backbone, select(condition, rows)
        for i in range(options.trained):
            x, x_next, old = path.points[i, rows], path.points[i + 1, rows], path.log_probs[i, rows]
            with state.autocast():
                mean, std = transition(backbone.policy(), i, x, own, options)
                with torch.no_grad():
                    mean_ref, _ = transition(backbone.reference(), i, x, own, options)
            ratio = (log_prob(x_next, mean, std) - old).exp()
            clipped = ratio.clamp(1 - options.clip, 1 + options.clip)
            gain = torch.minimum(ratio * a[rows], clipped * a[rows])
            kl = gaussian_kl(mean, mean_ref, std)
            ((options.beta * kl - gain).mean() / options.trained).backward()
            off = (ratio.detach() - 1).abs()
            for name, value in (("kl", kl.detach()), ("clipped", (off > options.clip).float()), ("ratio_error", off)):
                sums[name] += float(value.mean()) / options.trained
        return sums
