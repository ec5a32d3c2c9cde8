"""The stochastic sampler and the policy gradient against the paper's equations, in its own direction of time."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from orwcfm_core.backbone import Backbone
from orwcfm_core.errors import UserError
from orwcfm_core.registry import Registry
from orwcfm_core.sampler import Dopri5, Euler
from orwcfm_core.testing.gradients import one_update, trainer_on_gmm
from orwcfm_core.trainer import State
from orwcfm_trainer_flow_grpo.trainer import path_times
from orwcfm_trainer_flow_grpo.transition import Transition
from torch import Tensor
from torch.distributions import Normal

NOISE, STEPS = 0.7, 5


def advantage(scores: Tensor) -> Tensor:
    return (scores - scores.mean()) / scores.std(correction=0)


def paper(t: Tensor, end: Tensor, x: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of a step as the paper writes it: s = 1 - t falls by h, its velocity is -v."""
    s, h, u = 1 - t, end - t, -v
    sigma = NOISE * (s / (1 - torch.where(s == 1, 1 - end, s))).sqrt()
    drift = u + (sigma**2 / (2 * s))[:, None] * (x + (1 - s)[:, None] * u)
    return x - h[:, None] * drift, sigma * h.sqrt()


def steps(shift: float = 1.0, n: int = 20, seed: int = 0) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    g = torch.Generator().manual_seed(seed)
    k = torch.randint(STEPS, (n,), generator=g)
    times = torch.tensor(Euler(STEPS, shift).times, dtype=torch.float64)
    return times[k], times[k + 1], *torch.randn((2, n, 3), generator=g, dtype=torch.float64)


@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_a_step_is_the_papers(shift: float) -> None:
    t, end, x, v = steps(shift)
    step = Transition.at(t, end, NOISE)
    mean, std = paper(t, end, x, v)
    torch.testing.assert_close(step.step(x, v, torch.zeros_like(x)), mean)
    torch.testing.assert_close(step.std, std)
    noise = torch.randn(x.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(step.step(x, v, noise), mean + std[:, None] * noise)


def test_log_probabilities_are_those_of_a_normal_distribution() -> None:
    t, end, x, v = steps()
    step = Transition.at(t, end, NOISE)
    x_next = x + 0.1 * v.flip(0)
    mean, std = paper(t, end, x, v)
    expected = Normal(mean, std[:, None]).log_prob(x_next).mean(1)
    torch.testing.assert_close(step.log_prob(v, step.velocity(x, x_next)), expected)


@pytest.mark.parametrize("shift", [1.0, 3.0])
@pytest.mark.parametrize("clip", [0.005, 0.5])
def test_the_gradient_is_that_of_the_clipped_ratio(clip: float, shift: float) -> None:
    trainer, state = trainer_on_gmm("flow-grpo", {"clip_range": clip}, advantage, alpha=0.2, steps=STEPS)
    state.components.sampler = Euler(STEPS, shift)
    state = trainer.start(state.components, state.ema.decay, torch.device("cpu"))
    at = one_update(trainer, state)
    times = trainer.times
    k = torch.searchsorted(times, at.t.float())
    assert set(k.tolist()) == set(range(STEPS - 1))
    assert torch.equal(times[k].double(), at.t)
    end = times[k + 1].double()
    no_noise, _ = paper(at.t, end, at.x_t, at.u_t)
    log_p, log_old = (
        Normal(mean, std[:, None]).log_prob(no_noise).mean(1)
        for mean, std in (paper(at.t, end, at.x_t, v) for v in (at.v, at.v_old))
    )
    ratio = (log_p - log_old).exp()
    outside = torch.where(at.w > 0, ratio > 1 + clip, ratio < 1 - clip)
    assert outside.any() == (clip < 0.1)
    loss = torch.where(outside, 0.0, -at.w * ratio) + 0.2 * (at.v - at.v_ref).square().mean(1)
    derived = at.derived(loss)
    torch.testing.assert_close(at.gradient, derived, rtol=1e-3, atol=1e-4 * float(derived.abs().max()))


def started(**options: Any) -> tuple[Any, State]:
    return trainer_on_gmm("flow-grpo", options, advantage, steps=options.pop("steps", STEPS))


def test_the_steps_of_a_path_belong_together_and_to_their_weight() -> None:
    trainer, state = started(samples=32, draws=2)
    rollout = trainer.collect(state)
    assert rollout.path.shape == (32, STEPS + 1, 2)
    torch.testing.assert_close(rollout.path[:, -1], rollout.x_1)
    lesson = trainer.lesson(state, rollout)
    path, weights = lesson.x_1, lesson.w
    batch = trainer._draw(state, lesson)
    k = torch.searchsorted(trainer.times, batch.t)
    sample = torch.arange(32).repeat_interleave(2)
    torch.testing.assert_close(batch.x_t, path[sample, k])
    torch.testing.assert_close(batch.w, weights[sample])
    step = Transition.at(batch.t, trainer.times[k + 1], NOISE)
    torch.testing.assert_close(
        step.step(batch.x_t, batch.u_t, torch.zeros_like(batch.x_t)), path[sample, k + 1], rtol=1e-4, atol=1e-5
    )


def test_many_steps_of_the_reference_end_in_its_mixture() -> None:
    trainer, state = started(samples=4096, steps=200)
    x_1 = trainer.collect(state).x_1
    mixture = state.components.backbone.mixture
    assert float((mixture.posterior(x_1).mean(0) - 1 / 8).abs().max()) < 0.02
    nearest = (x_1[:, None] - mixture.means.float()).square().sum(2).amin(1)
    # Two dimensions of variance 1/4.
    assert float(nearest.mean()) == pytest.approx(0.5, abs=0.06)


def test_steps_are_those_of_the_authors_code() -> None:
    """1 - sigma of diffusers' FlowMatchEulerDiscreteScheduler(shift=3), set_timesteps(10)."""
    published = [0.0, 0.0399, 0.0867, 0.1423, 0.2096, 0.2927, 0.3978, 0.5351, 0.722, 0.9911, 1.0]
    assert path_times(10, 3.0) == pytest.approx(published, abs=1e-4)
    assert path_times(5, 1.0) == pytest.approx([0.0, 0.2498, 0.4995, 0.7492, 0.999, 1.0], abs=1e-4)


def test_a_few_steps_leave_little_noise() -> None:
    """Of sharp components; with that of a last step of a quarter it would be three times the flow's."""
    trainer, state = started(samples=2048, steps=10)
    plugin = Registry().get("backbone", "gmm")
    backbone = plugin.build(plugin.spec.config.model_validate({"std": 0.01}), Backbone)
    state.components.backbone, state.components.sampler = backbone, Euler(10, 3.0)
    state = trainer.start(state.components, 0.0, torch.device("cpu"))
    paths = trainer.collect(state).x_1
    flow = state.sample(state.noise(2048), [""] * 2048)[0]
    away = [
        (x[:, None] - backbone.mixture.means.float()).square().sum(2).amin(1).mean().div(2).sqrt()
        for x in (paths, flow)
    ]
    assert float(away[0]) < 1.6 * float(away[1])


def test_reward_rises_on_the_mixture() -> None:
    trainer, state = started(samples=256, rounds=30, updates=4, lr=0.003, clip_range=0.2, clip_norm=1.0)
    rewards = [trainer.round(state)["reward_mean"] for _ in range(30)]
    assert sum(rewards[-5:]) > 1.3 * sum(rewards[:5])


def test_what_it_needs_of_the_sampler() -> None:
    trainer, state = started()
    state.components.sampler = Dopri5(1e-3, 1e-3)
    with pytest.raises(UserError, match="fixed number of steps"):
        trainer.start(state.components, 0.0, torch.device("cpu"))
    with pytest.raises(UserError, match="at least 2 steps"):
        started(steps=1)
