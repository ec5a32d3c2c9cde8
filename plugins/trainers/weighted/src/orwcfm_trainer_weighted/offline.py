"""Methods that learn from a fixed set of samples."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch
from orwcfm_core.errors import RunError, UserError
from orwcfm_core.orw_cfm import Lesson, OrwCfm, Rollout
from orwcfm_core.overlap import Sample, draw_and_score
from orwcfm_core.trainer import Components, State, draw
from torch import Tensor

from orwcfm_trainer_weighted.data import check_samples, read_samples
from orwcfm_trainer_weighted.plugin import OfflineConfig

__all__ = ["Reft", "Rwr"]

_OWN_SEED = 2**31
"""Added to the run's seed for the fixed set, whose noise must not come again in training."""


class Rwr(OrwCfm):
    """Offline reward-weighted regression, RW-CFM in the paper's terms.

    Samples x_1 of the reference q (or from a folder) are drawn, scored and weighted once, before the first round, and
    each round regresses on `train.samples` of them:

        E_{x_1 ~ q, t, x_0}[ w(x_1) |v(t, x_t) - u_t|^2 ]

    The minimiser's density is proportional to w q. Samples of weight 0 are left out of the set, and positive weights
    have mean 1 over the rest. The metrics of a round are those of `train.watch` samples of the policy.

    Args:
        config: Options of section `train`.

    References:
        Aligning Text-to-Image Models using Human Feedback (Lee et al., 2023), arXiv:2302.12192
        Online Reward-Weighted Fine-Tuning of Flow Matching with Wasserstein Regularization (Fan et al., 2025),
        arXiv:2502.06061: RW-CFM

    Raises:
        UserError: The weighting has a schedule, or samples are to be grouped.
    """

    config: OfflineConfig

    def start(self, components: Components, ema_decay: float, device: torch.device, ema_growth: float = 0.0) -> State:
        if any(knob.owner is components.weighting for knob in components.schedules.knobs):
            raise UserError("weighting.schedule: a fixed set is weighed once; leave it out, or use another --trainer")
        if self.config.group is not None:
            raise UserError("train.group: a fixed set has as many samples of each prompt as it has; leave it out")
        return super().start(components, ema_decay, device, ema_growth)

    def check(self, components: Components) -> None:
        if self.config.data is not None:
            check_samples(Path(self.config.data), components.backbone, components.prompts)

    def collect(self, state: State) -> Rollout:
        nfe = 0 if state.memory else self._fill(state)
        known, watch = state.components.prompts, self.config.watch
        numbers = [(state.round * watch + i) % len(known) for i in range(watch)]
        prompts, groups = [known[n] for n in numbers], torch.tensor(numbers, device=state.device)
        noise = state.noise(len(prompts))
        drawn = draw_and_score(state, noise, prompts, self.config.overlap, state.sample)
        return Rollout.of(prompts, groups, drawn._replace(nfe=nfe))

    def lesson(self, state: State, rollout: Rollout) -> Lesson:
        x_1, weights, numbers = (state.memory[name] for name in ("x_1", "weights", "prompts"))
        rows = torch.randperm(len(x_1), generator=state.generator, device=state.device)[: self.config.samples]
        prompts = [state.components.prompts[i] for i in numbers[rows].tolist()]
        w, valid = weights[rows], torch.ones_like(rows, dtype=torch.bool)
        # Of the whole set: baselines may lower weights of a part that has no negative one.
        condition, signed = state.components.backbone.encode(prompts), bool((weights < 0).any())
        return Lesson(x_1[rows], w, valid, numbers[rows], condition, signed)

    def _fill(self, state: State) -> int:
        """Draw or read the fixed set, weigh it and keep it; returns model evaluations."""
        parts = state.components
        sample: Sample
        if self.config.data is None:
            numbers = [i % len(parts.prompts) for i in range(self.config.data_samples)]
            source, sample = self._noise(state), partial(_sample_reference, state)
        else:
            read, numbers = read_samples(Path(self.config.data), parts.backbone, parts.prompts)
            source, sample = read.to(state.device), _as_they_are
        prompts, groups = [parts.prompts[i] for i in numbers], torch.tensor(numbers, device=state.device)
        drawn = draw_and_score(state, source, prompts, self.config.overlap, sample)
        found = Rollout.of(prompts, groups, drawn)
        weights = parts.weighting.weights(found.scored.signal, found.valid, groups)
        rows = weights.nonzero().flatten()
        if not len(rows):
            raise RunError("trainer: no sample of the fixed set has a valid score and a weight other than 0")
        weights = weights[rows]
        weights = weights / weights.mean() if (weights > 0).all() else weights
        state.memory = {"x_1": found.x_1[rows], "weights": weights, "prompts": groups[rows]}
        return found.nfe

    def _noise(self, state: State) -> Tensor:
        """What the fixed set is drawn from."""
        source = torch.Generator(state.device).manual_seed((self.config.seed + _OWN_SEED) % 2**63)
        shape = (self.config.data_samples, *state.components.backbone.sample_shape)
        return torch.randn(shape, generator=source, device=state.device)


def _sample_reference(state: State, noise: Tensor, prompts: Sequence[str]) -> tuple[Tensor, int]:
    """Samples of the reference, and model evaluations."""
    backbone, sampler = state.components.backbone, state.components.sampler
    with state.autocast():
        return state.fit(lambda size: draw(backbone, backbone.reference(), sampler, noise, prompts, size))


def _as_they_are(x_1: Tensor, prompts: Sequence[str]) -> tuple[Tensor, int]:
    return x_1, 0


class Reft(Rwr):
    """Reinforced fine-tuning: `Rwr` on a set that is filtered to its best samples.

    With the weights of `--weighting top-k`, which the plugin suggests, only the best of each prompt stay in the set,
    and all of them count the same: plain flow matching on a filtered set.

    References:
        Sequence-Augmented SE(3)-Flow Matching For Conditional Protein Backbone Generation (Huguet et al., 2024),
        arXiv:2405.20313
    """
