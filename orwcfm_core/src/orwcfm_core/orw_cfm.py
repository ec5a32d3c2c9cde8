"""Online reward-weighted conditional flow matching with Wasserstein regularization (ORW-CFM-W2)."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from orwcfm_core.backbone import Condition, VelocityField, select
from orwcfm_core.coupling import couple
from orwcfm_core.errors import RunError
from orwcfm_core.metrics import diversity, effective_sample_size, mean_and_std
from orwcfm_core.objective import Objective, Scored
from orwcfm_core.overlap import Drawn, draw_and_score
from orwcfm_core.regularizer import penalise
from orwcfm_core.trainer import SkippedTooOften, State, Trainer, repeat_condition

__all__ = ["Batch", "Lesson", "OrwCfm", "Rollout", "learning_rate", "mean_square", "stratified_times"]

log = logging.getLogger(__name__)

_SUMS = ("loss", "penalty", "velocity_divergence")


class Lesson(NamedTuple):
    """What all updates of a round learn from: B samples.

    Args:
        x_1: The samples, `(B, *)`, or whatever else a method draws its points from.
        w: Their weights, `(B,)`.
        valid: Which of them count, `(B,)`.
        groups: Number of each one's prompt, `(B,)`.
        condition: For B samples.
        signed: Whether some weights are negative.
    """

    x_1: Tensor
    w: Tensor
    valid: Tensor
    groups: Tensor
    condition: Condition
    signed: bool

    def counted(self) -> Lesson:
        """Those that count alone: others would still be held to the anchors, and lower the mean of the weights."""
        if self.valid.all():
            return self
        rows, condition = self.valid, select(self.condition, self.valid)
        return Lesson(self.x_1[rows], self.w[rows], rows[rows], self.groups[rows], condition, self.signed)


@dataclass(frozen=True)
class Rollout:
    """Samples of the policy, judged; B of them.

    Args:
        prompts: The prompt of each.
        groups: Its number, `(B,)`.
        x_1: The samples, `(B, *)`; finite, where invalid as well.
        images: The same as images, `(B, C, H, W)`.
        scored: What the objective makes of them.
        finite: Which of them were finite when they were drawn, `(B,)`.
        valid: Which of them count, `(B,)`.
        nfe: Model evaluations in total.
        path: Points on the way to them, `(B, K + 1, *)`, if the method keeps those.
    """

    prompts: Sequence[str]
    groups: Tensor
    x_1: Tensor
    images: Tensor
    scored: Scored
    finite: Tensor
    valid: Tensor
    nfe: int
    path: Tensor | None = None

    @classmethod
    def of(cls, prompts: Sequence[str], groups: Tensor, drawn: Drawn) -> Rollout:
        """What was drawn for these prompts, without a path; arguments as in the class."""
        valid = drawn.scored.valid & drawn.finite
        return cls(prompts, groups, drawn.x_1, drawn.images, drawn.scored, drawn.finite, valid, drawn.nfe)


class Batch(NamedTuple):
    """Points on the paths of one update, or of a micro-batch of it, and what is known there before the update.

    Args:
        t: Times, `(N,)`.
        x_t: Points, `(N, *)`.
        u_t: Velocities of the paths, `x_1 - x_0`, `(N, *)`.
        w: Weights, `(N,)`.
        condition: For N samples.
        signed: Whether some of the round's weights are negative; known to the host, which thus need not ask the device.
        v_ref: Velocities of the reference, `(N, *)`.
        v_old: Those of the sampling policy, `(N, *)`; None where nothing needs them.
        nfe: Model evaluations that took.
    """

    t: Tensor
    x_t: Tensor
    u_t: Tensor
    w: Tensor
    condition: Condition
    signed: bool
    v_ref: Tensor
    v_old: Tensor | None
    nfe: int

    def tensors(self) -> dict[str, Tensor]:
        """What was drawn, by name."""
        return {"t": self.t, "x_t": self.x_t, "u_t": self.u_t, "w": self.w, **self.condition}

    def part(self, start: int, stop: int) -> Batch:
        """A micro-batch."""
        rows = slice(start, stop)
        condition, v_old = select(self.condition, rows), None if self.v_old is None else self.v_old[rows]
        points = (self.t[rows], self.x_t[rows], self.u_t[rows], self.w[rows])
        return Batch(*points, condition, self.signed, self.v_ref[rows], v_old, self.nfe)


class OrwCfm(Trainer):
    """The paper's method: sample, score, weigh, and regress on the samples.

    Each round minimises, over its own samples x_1,

        E_{t, x_0}[ |w(x_1)| |v(t, x_t) - y_t|^2 + alpha R(v, v_ref) ],   x_t = (1-t) x_0 + t x_1

    with `y_t = u_t = x_1 - x_0` where w is positive: eq. 10 of the paper if all weights are. A negative weight turns
    its term around, with the mirror image of u_t about the velocity v_old of the sampling policy:

        y_t = v_ref + c (2 v_old - u_t - v_ref),   c = min(1, 2 |v_ref - u_t| / |2 v_old - u_t - v_ref|)

    With c = 1 it has, at v = v_old, the gradient of `w |v - u_t|^2`, but is bounded below, where that one sends the
    policy to infinity (the idea of DiffusionNFT's negative branch). That is so for as long as v_old is at most half as
    far from the reference as u_t is. Beyond, c keeps the target within twice the distance of u_t from the reference;
    otherwise it would move on with v_old, round after round.

    The regularizer R may hold to v_old as well (`reg.anchor`), which bounds what a round changes and leaves the balance
    where it is. Squared norms are means over the dimensions of a sample, so that alpha means the same at every
    resolution.

    References:
        Online Reward-Weighted Fine-Tuning of Flow Matching with Wasserstein Regularization (Fan et al., 2025),
        arXiv:2502.06061
        DiffusionNFT: Online Diffusion Reinforcement with Forward Process (Zheng et al., 2025), arXiv:2509.16117
    """

    def round(self, state: State) -> dict[str, Any]:
        began = time.perf_counter()
        parts, config = state.components, self.config
        parts.schedules.begin(state.round, config.rounds)
        rollout = self.collect(state)
        scored, valid = rollout.scored, rollout.valid
        judged = time.perf_counter()
        features = parts.features(rollout.x_1, rollout.images)
        began += time.perf_counter() - judged
        whole = self.lesson(state, rollout)
        lesson = whole.counted()
        updates = range(config.updates) if len(lesson.w) else ()
        if not updates:
            self._skip(state, config.updates, "no sample has a valid score", {"x_1": rollout.x_1})
        kept = list[Batch]()
        trace = [self._update(state, lesson, kept, i) for i in updates]
        parts.objective.observe(scored.raw, valid)
        if trace:
            state.ema.update(state.round)
        state.round += 1

        seconds = time.perf_counter() - began
        reward_mean, reward_std = mean_and_std(scored.values[valid])
        done = [update for update in trace if update["loss"] is not None]
        strengths = parts.schedules.values()
        parts.schedules.observe(done[0]["velocity_divergence"] if done else None)
        return {
            "round": state.round,
            "reward_mean": reward_mean,
            "reward_std": reward_std,
            **_raw_means(parts.objective, scored, valid),
            **self._heldout(state, rollout),
            "velocity_divergence": done[0]["velocity_divergence"] if done else None,
            "diversity": diversity(features[rollout.finite & features.isfinite().all(1)]),
            "ess": effective_sample_size(whole.w),
            **{key: done[-1][key] if done else None for key in ("loss", "penalty", "grad_norm", "lr")},
            "invalid": int((~valid).sum()),
            "skipped": config.updates - len(done),
            "nfe": rollout.nfe + sum(int(update["nfe"]) for update in trace),
            **strengths,
            "samples_per_second": config.samples / seconds,
            "seconds": seconds,
        }

    def collect(self, state: State) -> Rollout:
        """Sample from the sampling policy and judge the samples: what a round's metrics are of."""
        prompts, groups = self._prompts(state)
        noise = state.noise(len(prompts))
        return Rollout.of(prompts, groups, draw_and_score(state, noise, prompts, self.config.overlap, state.sample))

    def lesson(self, state: State, rollout: Rollout) -> Lesson:
        """What the updates of a round learn from."""
        parts = state.components
        w = parts.weighting.weights(rollout.scored.signal, rollout.valid, rollout.groups)
        condition, signed = parts.backbone.encode(rollout.prompts), bool((w < 0).any())
        return Lesson(rollout.x_1, w, rollout.valid, rollout.groups, condition, signed)

    def points(self, state: State, x_1: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Draw a time and a point on a path to each sample.

        Args:
            state: The run.
            x_1: Samples, `(N, *)`.

        Returns:
            Times `(N,)`, points `x_t` and velocities `u_t` of the paths, `(N, *)`.
        """
        x_0 = couple(self.config.coupling, state.noise(len(x_1)), x_1)
        t = stratified_times(len(x_1), state.generator)
        s = t.view(-1, *[1] * (x_1.ndim - 1))
        return t, (1 - s) * x_0 + s * x_1, x_1 - x_0

    def weights(self, state: State, lesson: Lesson, t: Tensor, x_t: Tensor) -> Tensor:
        """Weights of points `(N, *)` at times `(N,)`, those of the same sample side by side, `(N,)`."""
        return state.components.weighting.local(lesson.w, t, x_t, lesson.x_1, lesson.valid, lesson.groups)

    def _prompts(self, state: State) -> tuple[list[str], Tensor]:
        """The prompt of each sample of this round, and its number."""
        known, samples = state.components.prompts, self.config.samples
        if self.config.group is None:
            numbers = [(state.round * samples + i) % len(known) for i in range(samples)]
        else:
            per_round = samples // self.config.group
            first = state.round * per_round
            numbers = [(first + i // self.config.group) % len(known) for i in range(samples)]
        return [known[n] for n in numbers], torch.tensor(numbers, device=state.device)

    def _heldout(self, state: State, rollout: Rollout) -> dict[str, float | None]:
        means = {}
        for judge in state.components.heldout:
            values, valid = judge.score(rollout.x_1, rollout.images, rollout.prompts)
            means[f"heldout_{judge.name}"] = mean_and_std(values[valid & rollout.finite])[0]
        return means

    def _batch(self, state: State, lesson: Lesson, kept: list[Batch], index: int) -> Batch:
        """The points of an update, and what is known there; those that a later one goes over again are kept."""
        distinct = self.config.batches
        if index >= distinct:
            # The policy alone changes from pass to pass.
            return kept[index % distinct]._replace(nfe=0)
        batch = self._draw(state, lesson)
        if distinct < self.config.updates:
            kept.append(batch)
        return batch

    def _update(self, state: State, lesson: Lesson, kept: list[Batch], index: int) -> dict[str, Any]:
        """One step of the optimiser on all samples of the round; skipped where it would end in something not finite."""
        step = state.round * self.config.updates + index
        lr = learning_rate(self.config, step)
        for group in state.optimizer.param_groups:
            group["lr"] = lr
        batch = self._batch(state, lesson, kept, index)
        sums = state.fit(lambda micro_batch: self._backward(state, batch, micro_batch))
        state.scaler.unscale_(state.optimizer)
        norm = torch.nn.utils.clip_grad_norm_(state.ema.parameters, self.config.clip_norm)
        # The only place in an update where the host waits for the device.
        *totals, grad_norm = torch.cat([sums, norm.to(sums).view(1)]).tolist()
        found: dict[str, Any] = {name: total / len(batch.t) for name, total in zip(_SUMS, totals, strict=True)}
        found |= {"grad_norm": grad_norm, "lr": lr, "nfe": batch.nfe + len(batch.t)}
        finite = math.isfinite(grad_norm + found["loss"])
        if finite:
            state.optimizer.step()
            state.skipped = 0
        state.scaler.update()
        if not finite:
            self._skip(state, 1, "the loss or its gradient is not finite", {"x_1": lesson.x_1, **batch.tensors()})
            found["loss"] = None
        return found

    def _skip(self, state: State, updates: int, why: str, inputs: Mapping[str, Tensor]) -> None:
        """Count updates that are not done.

        Raises:
            SkippedTooOften: There were too many in a row.
        """
        # Once for each series of them; metrics.jsonl has the count of every round.
        if not state.skipped:
            log.warning("round %d: updates are skipped: %s", state.round + 1, why)
        state.skipped += updates
        if state.skipped >= self.config.max_skipped:
            raise SkippedTooOften(
                f"round {state.round + 1}: {state.skipped} updates in a row were skipped (train.max_skipped): {why}",
                inputs,
            )

    def _backward(self, state: State, batch: Batch, micro_batch: int) -> Tensor:
        """Gradient of the mean loss over the batch; returns the sums of what `_SUMS` names, `(3,)`."""
        state.optimizer.zero_grad()
        sums = torch.zeros(len(_SUMS), device=state.device)
        for start in range(0, len(batch.t), micro_batch):
            losses = self._losses(state, batch.part(start, min(start + micro_batch, len(batch.t))))
            state.scaler.scale(losses["loss"].sum() / len(batch.t)).backward()
            sums += torch.stack([losses[name].detach().float().sum() for name in _SUMS])
        return sums

    def _draw(self, state: State, lesson: Lesson) -> Batch:
        """Draw times and noise, `draws` for every sample."""
        draws = self.config.draws
        t, x_t, u_t = self.points(state, lesson.x_1.repeat_interleave(draws, dim=0))
        w = self.weights(state, lesson, t, x_t)
        condition = repeat_condition(lesson.condition, draws)
        backbone = state.components.backbone
        v_ref = self._known(state, backbone.reference(), t, x_t, condition)
        nfe, v_old = len(t), None
        if self._needs_old(state, lesson):
            with state.ema.swapped():
                v_old = self._known(state, backbone.policy(), t, x_t, condition)
            nfe += len(t)
        return Batch(t, x_t, u_t, w, condition, lesson.signed, v_ref, v_old, nfe)

    @torch.no_grad()
    def _known(self, state: State, field: VelocityField, t: Tensor, x_t: Tensor, condition: Condition) -> Tensor:
        """Velocities of a field that is not trained, in micro-batches, `(N, *)`."""

        def attempt(size: int) -> Tensor:
            parts = [slice(start, start + size) for start in range(0, len(t), size)]
            return torch.cat([_velocity(state, field, t[p], x_t[p], select(condition, p)) for p in parts])

        return state.fit(attempt)

    def _losses(self, state: State, batch: Batch) -> dict[str, Tensor]:
        """Loss, penalty and divergence of a micro-batch, each `(B,)`."""
        parts = state.components
        v = _velocity(state, parts.backbone.policy(), batch.t, batch.x_t, batch.condition)
        penalty = penalise(parts.regularizer, v, batch.v_ref, batch.t, batch.x_t, batch.w, v_old=batch.v_old)
        loss = self._loss(batch, v)
        if loss.shape != batch.w.shape:
            raise RunError(f"trainer: loss has shape {tuple(loss.shape)}, expected {tuple(batch.w.shape)}")
        return {
            "loss": loss + penalty.cost,
            "penalty": penalty.value,
            "velocity_divergence": mean_square(v.detach() - batch.v_ref),
        }

    def _needs_old(self, state: State, lesson: Lesson) -> bool:
        return lesson.signed or state.components.regularizer.needs_old

    def _loss(self, batch: Batch, v: Tensor) -> Tensor:
        """The loss without the regularizer, `(B,)`."""
        return batch.w.abs() * mean_square(v - self._targets(batch))

    def _targets(self, batch: Batch) -> Tensor:
        """What the policy regresses to, `(B, *)`."""
        if not batch.signed:
            return batch.u_t
        assert batch.v_old is not None
        v_ref, mirrored = batch.v_ref, 2 * batch.v_old - batch.u_t
        away = mirrored - v_ref
        c = 2 * (mean_square(v_ref - batch.u_t) / mean_square(away).clamp_min(1e-12)).sqrt()
        column = (-1, *[1] * (away.ndim - 1))
        return torch.where((batch.w < 0).view(column), v_ref + c.clamp_max(1).view(column) * away, batch.u_t)


def _velocity(state: State, field: VelocityField, t: Tensor, x_t: Tensor, condition: Condition) -> Tensor:
    with state.autocast():
        return field.velocity(t, x_t, condition).float()


def stratified_times(count: int, generator: torch.Generator) -> Tensor:
    """Times in [0, 1], `(count,)`: one uniform draw in each of `count` equal intervals, in random order."""
    device = generator.device
    order = torch.randperm(count, generator=generator, device=device)
    return (order + torch.rand(count, generator=generator, device=device)) / count


def learning_rate(config: Any, step: int) -> float:
    """Linear warm-up times cosine decay, by the number of the update.

    Args:
        config: With `lr`, `warmup`, `decay`, `rounds` and `updates`.
        step: Updates done.
    """
    progress = step / (config.rounds * config.updates)
    cosine = config.decay + (1 - config.decay) * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
    return float(config.lr * cosine * min(1.0, (step + 1) / (config.warmup + 1)))


def _raw_means(objective: Objective, scored: Scored, valid: Tensor) -> dict[str, float | None]:
    """Mean score of each reward before normalising and combining, where the combined score is something else."""
    if not objective.composed:
        return {}
    return {f"reward_{name}": mean_and_std(scores[valid])[0] for name, scores in scored.raw.items()}


def mean_square(x: Tensor) -> Tensor:
    """Mean square over all but the first dimension, `(B,)`."""
    return x.flatten(1).square().mean(1)
