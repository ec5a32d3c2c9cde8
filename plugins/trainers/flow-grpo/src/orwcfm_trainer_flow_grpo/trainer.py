"""Flow-GRPO."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from orwcfm_core.errors import UserError
from orwcfm_core.orw_cfm import Lesson, Rollout, stratified_times
from orwcfm_core.overlap import draw_and_score
from orwcfm_core.sampler import FixedStep
from orwcfm_core.trainer import Components, State
from orwcfm_core.velocity_trainer import Velocities, VelocityTrainer, clipped_surrogate
from torch import Tensor

from orwcfm_trainer_flow_grpo.plugin import Config
from orwcfm_trainer_flow_grpo.transition import Transition

__all__ = ["FlowGrpo"]


class FlowGrpo(VelocityTrainer):
    """Samples come from a stochastic sampler, whose steps x -> x' are Gaussian and have likelihoods.

    With A the advantage of the sample within its prompt's (its weight),

        rho  = p(x' | x; v) / p(x' | x; v_old)
        loss = max( -A rho, -A clip(rho, 1 - clip_range, 1 + clip_range) )

    An update takes `train.draws` steps of each path, but for the last one, which is short (`path_times`). The KL to the
    reference is the regularizer's (`--reg kl`), at the points of the paths. In the terms of the other methods, `u_t` is
    the velocity whose step without noise leads from x to x', so that log p = -(move / std)^2 |v - u_t|^2 / 2 + const
    (`Transition`).

    Args:
        config: Options of section `train`.

    Raises:
        UserError: The sampler has no fixed number of steps, or a single one.

    References:
        Flow-GRPO: Training Flow Matching Models via Online RL (Liu et al., 2025), arXiv:2505.05470
    """

    config: Config

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.times = torch.zeros(0)
        """Where the steps of a path begin and end, `(K + 1,)`."""

    def start(self, components: Components, ema_decay: float, device: torch.device, ema_growth: float = 0.0) -> State:
        if not isinstance(components.sampler, FixedStep):
            raise UserError("trainer flow-grpo: needs a sampler with a fixed number of steps, such as euler")
        steps = len(components.sampler.times) - 1
        self.times = torch.tensor(path_times(steps, components.sampler.shift), device=device)
        if steps < 2:
            raise UserError("trainer flow-grpo: needs at least 2 steps; the last one is not trained")
        return super().start(components, ema_decay, device, ema_growth)

    @property
    def steps(self) -> int:
        """Number K of steps of a path."""
        return len(self.times) - 1

    def collect(self, state: State) -> Rollout:
        prompts, groups = self._prompts(state)
        noise = torch.stack([state.noise(len(prompts)) for _ in range(self.steps + 1)], dim=1)
        paths = list[Tensor]()

        def sample(noise: Tensor, prompts: Sequence[str]) -> tuple[Tensor, int]:
            paths.append(self._walk(state, noise, prompts))
            return paths[-1][:, -1], self.steps * len(prompts)

        drawn = draw_and_score(state, noise, prompts, self.config.overlap, sample)
        return replace(Rollout.of(prompts, groups, drawn), path=torch.cat(paths).nan_to_num(0.0, 0.0, 0.0))

    def lesson(self, state: State, rollout: Rollout) -> Lesson:
        assert rollout.path is not None
        return super().lesson(state, rollout)._replace(x_1=rollout.path)

    def weights(self, state: State, lesson: Lesson, t: Tensor, x_t: Tensor) -> Tensor:
        """Those of the samples: the points are no mixtures of noise and sample."""
        return lesson.w.repeat_interleave(len(t) // len(lesson.w))

    def points(self, state: State, x_1: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """A step of each path, `(N, K + 1, *)`: its time, where it starts, and the velocity that it went with."""
        trained = self.steps - 1
        k = (stratified_times(len(x_1), state.generator) * trained).long().clamp_max(trained - 1)
        rows = torch.arange(len(x_1), device=x_1.device)
        x_t = x_1[rows, k]
        return self.times[k], x_t, self._transition(k).velocity(x_t, x_1[rows, k + 1])

    def loss(self, at: Velocities) -> Tensor:
        step = self._transition(torch.searchsorted(self.times, at.t))
        log_ratio = step.log_prob(at.v, at.u_t) - step.log_prob(at.v_old, at.u_t)
        return clipped_surrogate(at.w, log_ratio, self.config.clip_range)

    def _transition(self, k: Tensor) -> Transition:
        return Transition.at(self.times[k], self.times[k + 1], self.config.noise)

    @torch.no_grad()
    def _walk(self, state: State, noise: Tensor, prompts: Sequence[str]) -> Tensor:
        """Paths of the sampling policy, `(B, K + 1, *)`, from as much noise."""

        def attempt(size: int) -> Tensor:
            starts = range(0, len(prompts), size)
            return torch.cat([self._paths(state, noise[i : i + size], prompts[i : i + size]) for i in starts])

        with state.ema.swapped(), state.autocast():
            return state.fit(attempt)

    def _paths(self, state: State, noise: Tensor, prompts: Sequence[str]) -> Tensor:
        backbone = state.components.backbone
        condition, x = backbone.encode(prompts), noise[:, 0]
        path = [x]
        for k in range(self.steps):
            rows = torch.full((len(x),), k, device=x.device)
            v = backbone.policy().velocity(self.times[rows], x, condition).float()
            x = self._transition(rows).step(x, v, noise[:, k + 1])
            path.append(x)
        return torch.stack(path, dim=1)


def path_times(steps: int, shift: float) -> list[float]:
    """Where the steps of a path begin and end, as in the authors' code: the last is short, and begins near the data.

        t = (1 - s) / (1 - s + shift s),   s from 1 to that of t = 0.999 with the same shift, then t = 1

    Args:
        steps: Number of steps, at least 1.
        shift: As of a sampler.

    Returns:
        `steps + 1` times from 0 to 1.
    """
    least = shift / (999 + shift)
    levels = torch.linspace(1, least, steps, dtype=torch.float64).tolist()
    return [(1 - s) / (1 - s + shift * s) for s in levels] + [1.0]
