"""The rivals in benchmarks/: Flow-GRPO's derivation against independent formulas, and how costs are compared."""

from __future__ import annotations

import importlib
import math
import sys
from pathlib import Path

import pytest
import torch
from orwcfm_backbone_gmm.backbone import GmmBackbone, GmmReference
from orwcfm_backbone_gmm.mixture import GaussianMixture
from orwcfm_backbone_gmm.plugin import GmmConfig
from orwcfm_cli.assemble import assemble
from orwcfm_core.registry import Registry
from orwcfm_core.regularizer import Regularizer
from orwcfm_core.resolve import resolve
from orwcfm_core.trainer import State
from torch import Tensor
from torch.distributions import Independent, Normal, kl_divergence

sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))
flow_grpo = importlib.import_module("flow_grpo")
rivals = importlib.import_module("rivals")

SAMPLES = 12


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def laboratory(moved: bool) -> State:
    """A run on the Gaussian mixture in float64, whose policy has left the reference or not."""
    config = resolve(
        {"backbone": {"name": "gmm"}, "reward": {"name": "component"}, "train": {"device": "cpu"}}, Registry()
    )
    _, state = assemble(config)
    state.precision = "fp32"
    backbone = state.components.backbone
    assert isinstance(backbone, GmmBackbone)
    backbone.residual.double()
    if moved:
        with torch.no_grad():
            for parameter in backbone.policy().parameters().values():
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator(), dtype=torch.float64))
    return state


def noise(state: State, count: int) -> Tensor:
    return torch.randn(count, *state.components.backbone.sample_shape, generator=generator(), dtype=torch.float64)


def step_of_the_paper(v: Tensor, x: Tensor, i: int, options: flow_grpo.Options) -> Normal:
    """Step i as Flow-GRPO's eq. 9 writes it: noise at t = 1, data at t = 0, and a velocity from data to noise."""
    h = 1 / options.steps
    t, v = 1 - i * h, -v
    sigma = options.noise * math.sqrt(t / (1 - (t if i else 1 - h)))
    return Normal(x - h * (v + sigma**2 / (2 * t) * (x + (1 - t) * v)), sigma * math.sqrt(h))


def gradient(state: State, path: flow_grpo.Path, advantages: Tensor, options: flow_grpo.Options) -> tuple[Tensor, dict]:
    """What Flow-GRPO adds up for all samples, as one vector, and what it says of it."""
    trainer = flow_grpo.FlowGrpo(resolve({}, Registry()).train, options)
    state.optimizer.zero_grad()
    found = trainer.gradient(state, path, advantages, {}, torch.arange(SAMPLES))
    return torch.cat([p.grad.flatten() for p in state.components.backbone.policy().parameters().values()]), found


def reinforce(state: State, path: flow_grpo.Path, advantages: Tensor, options: flow_grpo.Options) -> Tensor:
    """Gradient of `-mean A log p`, by automatic differentiation of the paper's formula."""
    policy = state.components.backbone.policy()
    total = torch.zeros((), dtype=torch.float64)
    for i in range(options.trained):
        v = policy.velocity(torch.tensor(i / options.steps, dtype=torch.float64), path.points[i], {})
        log_prob = step_of_the_paper(v, path.points[i], i, options).log_prob(path.points[i + 1]).mean(1)
        total = total - (advantages * log_prob).mean() / options.trained
    return torch.cat([g.flatten() for g in torch.autograd.grad(total, list(policy.parameters().values()))])


@pytest.mark.parametrize(("moved", "beta"), [(True, 0.0), (False, 0.0), (False, 10.0)])
def test_first_update_is_reinforce_with_a_ratio_of_one(moved: bool, beta: float) -> None:
    # At the reference the KL divergence is at its minimum and adds nothing, however large its weight.
    state, options = laboratory(moved), flow_grpo.Options(beta=beta)
    path = flow_grpo.roll_out(state.components.backbone.policy(), noise(state, SAMPLES), {}, options, generator(1))
    advantages = torch.randn(SAMPLES, generator=generator(2), dtype=torch.float64)
    found, told = gradient(state, path, advantages, options)
    expected = reinforce(state, path, advantages, options)
    assert told["ratio_error"] < 1e-12
    assert told["clipped"] == 0
    assert expected.norm() > 1e-4
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)


def test_gradient_of_the_kl_points_away_from_the_reference() -> None:
    state, options = laboratory(moved=True), flow_grpo.Options(beta=10.0)
    path = flow_grpo.roll_out(state.components.backbone.policy(), noise(state, SAMPLES), {}, options, generator(1))
    found, told = gradient(state, path, torch.zeros(SAMPLES, dtype=torch.float64), options)
    assert told["kl"] > 0
    with torch.no_grad():
        parameters, at = list(state.components.backbone.policy().parameters().values()), 0
        for parameter in parameters:
            parameter -= 1e-4 * found[at : at + parameter.numel()].view_as(parameter)
            at += parameter.numel()
    assert gradient(state, path, torch.zeros(SAMPLES, dtype=torch.float64), options)[1]["kl"] < told["kl"]


@pytest.mark.parametrize(("sign", "shift", "stopped"), [(1, -0.01, True), (1, 0.01, False), (-1, 0.01, True)])
def test_a_ratio_that_has_gained_enough_is_pushed_no_further(sign: int, shift: float, stopped: bool) -> None:
    # A lower old log-probability is a ratio above 1.
    state, options = laboratory(moved=True), flow_grpo.Options(beta=0.0)
    path = flow_grpo.roll_out(state.components.backbone.policy(), noise(state, SAMPLES), {}, options, generator(1))
    path = path._replace(log_probs=path.log_probs + shift)
    found, told = gradient(state, path, torch.full((SAMPLES,), float(sign), dtype=torch.float64), options)
    assert told["clipped"] == pytest.approx(1)
    assert bool(found.any()) is not stopped


MIXTURES = {
    "gaussian": GaussianMixture(torch.tensor([[1.0, -0.5]]), 0.6),
    "mixture": GaussianMixture(
        torch.tensor([[-2.0, 0.0], [2.0, 1.0], [0.0, -2.0]]), 0.4, torch.tensor([0.5, 0.3, 0.2])
    ),
}


@pytest.mark.parametrize("name", MIXTURES)
@pytest.mark.parametrize("level", [0.4, 0.7, 1.0])
def test_sde_has_the_marginals_of_the_ode(name: str, level: float) -> None:
    # The ODE's are known: samples of the mixture. 8,000 of each: errors are those of Monte Carlo and of 200 steps.
    mixture, count = MIXTURES[name], 8_000
    start = torch.randn(count, 2, generator=generator(3), dtype=torch.float64)
    options = flow_grpo.Options(steps=200, noise=level)
    found = flow_grpo.roll_out(GmmReference(mixture), start, {}, options, generator(4)).points[-1]
    exact = mixture.sample(count, generator(5), torch.float64)
    for statistic in (lambda x: x, torch.square, lambda x: x[:, :1] * x[:, 1:], mixture.posterior):
        a, b = statistic(found), statistic(exact)
        error = ((a.var(0) + b.var(0)) / count).sqrt()
        assert ((a.mean(0) - b.mean(0)).abs() < 4 * error + 0.01).all()


@pytest.mark.parametrize("i", [0, 1, 5, 9])
def test_a_step_is_the_papers_in_the_other_direction_of_time(i: int) -> None:
    options = flow_grpo.Options()
    backbone = GmmBackbone(GmmConfig())
    x = torch.randn(50, 2, generator=generator(), dtype=torch.float64)
    mean, std = flow_grpo.transition(backbone.reference(), i, x, {}, options)
    v = backbone.reference().velocity(torch.tensor(i / 10, dtype=torch.float64), x, {})
    expected = step_of_the_paper(v, x, i, options)
    torch.testing.assert_close(mean, expected.mean, rtol=1e-12, atol=1e-12)
    assert std == pytest.approx(expected.stddev[0, 0].item(), rel=1e-12)


def test_likelihood_and_divergence_are_those_of_gaussians() -> None:
    a, b, x = torch.randn(3, 7, 2, 3, generator=generator(), dtype=torch.float64)
    p, q = (Independent(Normal(mean, 0.3), 2) for mean in (a, b))
    torch.testing.assert_close(6 * flow_grpo.log_prob(x, a, 0.3), p.log_prob(x))
    torch.testing.assert_close(6 * flow_grpo.gaussian_kl(a, b, 0.3), kl_divergence(p, q))


@pytest.mark.parametrize("i", [1, 4, 9])
def test_divergence_of_a_step_is_a_share_of_the_path_kl(i: int) -> None:
    # The regularizer `kl` is the rate of the same divergence.
    options, spec = flow_grpo.Options(), Registry().get("regularizer", "kl")
    kl = spec.build(spec.spec.config(noise=options.noise), Regularizer)
    h, t = 1 / options.steps, i / options.steps
    v, v_ref, x = torch.randn(3, 8, 2, generator=generator(), dtype=torch.float64)
    sigma = flow_grpo.noise_level(t, h, options.noise)
    mean, mean_ref = (flow_grpo.step_mean(field, x, t, h, sigma) for field in (v, v_ref))
    rate = kl.penalty(v, v_ref, torch.full((8,), t, dtype=torch.float64), x, torch.ones(8))
    torch.testing.assert_close(flow_grpo.gaussian_kl(mean, mean_ref, sigma * math.sqrt(h)) / h, rate)


def test_advantages_are_relative_to_the_group_and_clipped() -> None:
    scores, groups = torch.tensor([0.0, 1.0, 5.0, 5.0, 9.0]), torch.tensor([0, 0, 1, 1, 1])
    a = flow_grpo.advantages(scores, groups, 5.0)
    assert torch.allclose(torch.stack([a[:2].sum(), a[2:].sum()]), torch.zeros(2), atol=1e-6)
    assert torch.equal(a.argsort(), torch.tensor([2, 3, 0, 1, 4])) or a[4] == a.max()
    assert flow_grpo.advantages(scores, groups, 0.1).abs().max() == pytest.approx(0.1)
    assert not flow_grpo.advantages(torch.ones(4), torch.zeros(4), 5.0).any()


def test_flow_grpo_starts_with_exact_ratios_and_counts_its_evaluations() -> None:
    method = rivals.flow_grpo(lr=3e-4)
    trainer, state = rivals.Method(method.title, {**method.tables, "train": {"samples": 8}}, method.flow_grpo).start(0)
    before = [p.clone() for p in state.ema.parameters]
    metrics = trainer.round(state)
    assert metrics["nfe"] == 8 * 10 + 8 * 9 * 2
    assert metrics["ratio_error"] < 1e-6
    assert not all(torch.equal(a, b) for a, b in zip(before, state.ema.parameters, strict=True))
    # The next round samples from what was trained: a hard copy.
    assert all(torch.equal(a, b) for a, b in zip(state.ema.average, state.ema.parameters, strict=True))


def test_published_settings_are_those_of_the_authors_code() -> None:
    trainer, state = rivals.published(tau=0.5, alpha=1, lr=2e-4).start(3)
    assert (len(state.components.sampler.times), state.ema.decay, state.precision) == (101, 0, "fp32")
    assert (trainer.config.updates, trainer.config.samples, trainer.config.seed) == (1, 128, 3)
    assert trainer.config.coupling == "independent"


def point(evaluations: int, processor: float) -> rivals.Point:
    return rivals.Point(rounds=1, evaluations=evaluations, processor=processor, judge=0.9, diversity=0.8)


@pytest.mark.parametrize(
    ("reached", "times", "verdict"),
    [
        (True, 12, "holds; 12.0"),
        (True, 2, "does not hold; 2.0"),
        (False, 12, "holds; more than 12.0"),
        (False, 2, "not decided"),
    ],
)
def test_verdicts_say_what_was_measured(reached: bool, times: int, verdict: str) -> None:
    here, there = point(100, 10), point(100 * times, 10 * times)
    outcomes = {
        ("default", 0): rivals.Outcome({0.9: here}, here),
        ("published", 0): rivals.Outcome({0.9: there} if reached else {}, there),
    }
    evaluations, processor, diversity = rivals.verdicts("published", outcomes, 0.9)
    assert verdict in evaluations
    assert verdict in processor
    assert "0.80 at a judge of 0.90 against 0.80" in diversity
    assert ("not within" in rivals.row("published", 0, outcomes, 0.9)[-1]) is not reached
