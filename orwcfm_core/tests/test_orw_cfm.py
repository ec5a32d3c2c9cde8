"""The training method on fields with a few parameters, where the answer is known."""

from __future__ import annotations

import time
from itertools import pairwise
from typing import Any

import pytest
import torch
from orwcfm_core.errors import RunError
from orwcfm_core.evaluation import evaluate
from orwcfm_core.orw_cfm import Lesson, learning_rate, stratified_times
from orwcfm_core.reward import Judge, Scores
from orwcfm_core.testing.fakes import FunctionReward
from orwcfm_core.trainer import SkippedTooOften, State
from orwcfm_core.weighting import Advantage, Exp, Softmax
from torch import Tensor


def parameters(state: State) -> list[Tensor]:
    return [p.detach().clone() for p in state.ema.parameters]


def perturb(state: State, size: float = 0.3) -> None:
    """Move policy and sampling policy away from the reference."""
    g = torch.Generator().manual_seed(9)
    for p, average in zip(state.ema.parameters, state.ema.average, strict=True):
        p.data.add_(size * torch.randn(p.shape, generator=g))
        average.copy_(p.data)


def train(lab: Any, rounds: int = 2, **options: Any) -> list[Tensor]:
    trainer, state = lab.start(**options)
    perturb(state)
    for _ in range(rounds):
        trainer.round(state)
    return parameters(state)


@pytest.mark.parametrize("weighting", [Exp(3.0), Softmax(3.0)], ids=["exp", "softmax"])
def test_constant_reward_is_plain_flow_matching(lab: Any, weighting: Exp | Softmax) -> None:
    trainer, state = lab.start(lambda x: torch.full((len(x),), 0.1), weighting, updates=3)
    perturb(state)
    plain = [p.requires_grad_() for p in parameters(state)]
    trainer.round(state)

    offset, slope, rate = plain
    g = torch.Generator().manual_seed(trainer.config.seed)
    n = trainer.config.samples
    x_1 = torch.randn(n, 2, generator=g)
    with torch.no_grad():
        for i in range(4):
            x_1 = x_1 + (x_1 @ slope.T + i / 4 * rate + offset) / 4
    optimizer = torch.optim.AdamW(plain, betas=(0.9, 0.99), weight_decay=0.0)
    for i in range(3):
        optimizer.param_groups[0]["lr"] = learning_rate(trainer.config, i)
        optimizer.zero_grad()
        x_0 = torch.randn(n, 2, generator=g)
        t = stratified_times(n, g)[:, None]
        x_t = (1 - t) * x_0 + t * x_1
        torch.nn.functional.mse_loss(x_t @ slope.T + t * rate + offset, x_1 - x_0).backward()
        torch.nn.utils.clip_grad_norm_(plain, trainer.config.clip_norm)
        optimizer.step()
    for p, expected in zip(parameters(state), plain, strict=True):
        torch.testing.assert_close(p, expected.detach(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("alpha", [0.0, 0.5, 4.0])
def test_constant_policy_reaches_the_weighted_minimiser(lab: Any, alpha: float) -> None:
    # For v = theta the loss is least at (E[w u] + alpha v_ref) / (E[w] + alpha), with E[u] = x_1, v_ref = 0, E[w] = 1.
    options = {"alpha": alpha, "constant": True, "samples": 512, "updates": 300, "rounds": 1, "lr": 0.05, "decay": 0.0}
    trainer, state = lab.start(weighting=Exp(1.0), **options)
    trainer.round(state)
    x_1 = torch.randn(512, 2, generator=torch.Generator().manual_seed(0))
    w = x_1[:, 0].exp() / x_1[:, 0].exp().mean()
    expected = (w[:, None] * x_1).mean(0) / (1 + alpha)
    assert float(expected[0]) > 0.15
    torch.testing.assert_close(parameters(state)[0], expected, rtol=0, atol=0.03)


def test_large_alpha_returns_the_reference(lab: Any) -> None:
    trainer, state = lab.start(weighting=Exp(2.0), alpha=1e4, updates=200, rounds=2, lr=0.03, decay=0.0, ema=0.5)
    perturb(state)
    before = trainer.round(state)["velocity_divergence"]
    trainer.round(state)
    t, x = torch.rand(50, generator=state.generator), torch.randn(50, 2, generator=state.generator)
    v = state.components.backbone.policy().velocity(t, x, {})
    assert before > 0.05
    assert float(v.detach().square().mean()) < 1e-4 * before


def test_negative_weight_has_the_gradient_of_the_signed_loss_at_the_reference(lab: Any) -> None:
    w = torch.linspace(-1, 1, 64)
    trainer, state = lab.start(weighting=lambda scores: w, updates=1, clip_norm=1e9)
    signed = [p.requires_grad_() for p in parameters(state)]
    trainer.round(state)

    offset, slope, rate = signed
    g = torch.Generator().manual_seed(trainer.config.seed)
    x_1 = torch.randn(64, 2, generator=g)
    with torch.no_grad():
        for i in range(4):
            x_1 = x_1 + (x_1 @ slope.T + i / 4 * rate + offset) / 4
    x_0 = torch.randn(64, 2, generator=g)
    t = stratified_times(64, g)[:, None]
    v = ((1 - t) * x_0 + t * x_1) @ slope.T + t * rate + offset
    (w * (v - (x_1 - x_0)).square().mean(1)).mean().backward()
    for p, expected in zip(state.ema.parameters, signed, strict=True):
        torch.testing.assert_close(p.grad, expected.grad, rtol=1e-4, atol=1e-6)


def test_negative_weights_alone_stay_bounded(lab: Any) -> None:
    # A constant policy ends at the mean of its targets, c (2 v_old - u); the signed loss has no minimum at all.
    options = {"constant": True, "samples": 256, "updates": 600, "rounds": 1, "lr": 0.05, "decay": 0.0}
    trainer, state = lab.start(weighting=lambda scores: -torch.ones_like(scores), **options)
    perturb(state)
    v_old = parameters(state)[0]
    metrics = trainer.round(state)
    g = torch.Generator().manual_seed(0)
    x_1 = (torch.randn(256, 2, generator=g) + v_old).repeat(400, 1)
    u = x_1 - torch.randn(x_1.shape, generator=g)
    away = 2 * v_old - u
    c = (2 * u.norm(dim=1) / away.norm(dim=1)).clamp_max(1)
    expected = (c[:, None] * away).mean(0)
    torch.testing.assert_close(parameters(state)[0], expected, rtol=0, atol=0.03)
    assert 0 <= metrics["loss"] < 3


@pytest.mark.parametrize("size", [0.0, 0.1, 1.0, 100.0])
def test_a_negative_weight_never_asks_for_more_than_twice_the_distance(lab: Any, size: float) -> None:
    trainer, state = lab.start(weighting=lambda scores: -torch.ones_like(scores))
    perturb(state, size)
    policy, reference = state.components.backbone.policy(), state.components.backbone.reference()
    x_1, w = torch.randn(64, 2, generator=state.generator), -torch.ones(64)
    with torch.no_grad():
        batch = trainer._draw(state, Lesson(x_1, w, w < 0, torch.zeros(64, dtype=torch.long), {}, True))
        v_old, v_ref = (field.velocity(batch.t, batch.x_t, {}) for field in (policy, reference))
        y_t = trainer._targets(batch._replace(v_ref=v_ref, v_old=v_old))
    mirrored, distance = 2 * v_old - batch.u_t, (v_ref - batch.u_t).norm(dim=1)
    assert ((y_t - v_ref).norm(dim=1) <= 2 * distance * (1 + 1e-4)).all()
    assert (torch.nn.functional.cosine_similarity(y_t - v_ref, mirrored - v_ref) > 0.999).all()
    near = (v_old - v_ref).norm(dim=1) <= distance / 2
    assert near.any() == (size < 100)
    torch.testing.assert_close(y_t[near], mirrored[near])


@pytest.mark.parametrize("weighting", [Exp, Advantage])
@pytest.mark.parametrize("coupling", ["independent", "optimal-transport"])
@pytest.mark.parametrize("micro_batch", [1, 7, 64])
def test_micro_batch_never_changes_the_result(lab: Any, weighting: Any, coupling: str, micro_batch: int) -> None:
    def result(size: int) -> list[Tensor]:
        fresh = Exp(2.0) if weighting is Exp else Advantage(1.0, 1.0, neighbours=4, fade=1.0)
        options = {"coupling": coupling, "alpha": 0.3, "ema": 0.5, "draws": 2, "samples": 20}
        return train(lab, weighting=fresh, micro_batch=size, **options)

    for p, q in zip(result(micro_batch), result(1000), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-5, atol=1e-6)


def test_same_seed_gives_the_same_result(lab: Any) -> None:
    options = {"alpha": 0.1, "ema": 0.5}
    first, again, other = (train(lab, weighting=Advantage(1.0, 1.0), seed=s, **options) for s in (4, 4, 5))
    assert all(torch.equal(p, q) for p, q in zip(first, again, strict=True))
    assert not torch.equal(first[0], other[0])


def test_invalid_samples_are_not_learned_from(lab: Any) -> None:
    def reward(broken: float) -> Any:
        return lambda x: Scores(torch.where(x[:, 0] > 0, x[:, 1], broken), x[:, 0] > 0)

    first, again = (train(lab, reward=reward(broken), weighting=Exp(1.0)) for broken in (0.0, torch.nan))
    assert all(torch.equal(p, q) for p, q in zip(first, again, strict=True))


def test_invalid_samples_are_as_if_they_had_not_been_drawn(lab: Any) -> None:
    def half(x: Tensor) -> Scores:
        return Scores(x[:, 0], torch.arange(len(x)) % 2 == 0)

    trainer, state = lab.start(reward=half, weighting=Exp(1.0), samples=64, draws=3, updates=2, steps=4)
    whole = trainer.lesson(state, trainer.collect(state))
    batch = trainer._draw(state, whole.counted())
    assert torch.equal(batch.w, whole.w[::2].repeat_interleave(3))
    assert float(batch.w.mean()) == pytest.approx(1)
    metrics = trainer.round(state)
    assert metrics["nfe"] == 64 * 4 + 2 * 2 * 32 * 3
    assert metrics["invalid"] == 32


def test_model_evaluations_and_round_are_counted(lab: Any) -> None:
    def sign(scores: Tensor) -> Tensor:
        return torch.where(torch.arange(len(scores)) < 16, -1.0, 1.0)

    trainer, state = lab.start(weighting=sign, samples=64, updates=3, draws=2, steps=4)
    metrics = trainer.round(state)
    # Sampling, then policy, reference and, as some weights are negative, the old policy.
    assert metrics["nfe"] == 64 * 4 + 3 * 3 * 128
    assert metrics["round"] == state.round == 1


@pytest.mark.parametrize(("updates", "passes", "points"), [(5, 2, [0, 1, 2, 0, 1]), (3, 9, [0, 0, 0]), (2, 1, [0, 1])])
def test_later_passes_go_over_the_same_points(
    lab: Any, monkeypatch: pytest.MonkeyPatch, updates: int, passes: int, points: list[int]
) -> None:
    trainer, state = lab.start(weighting=torch.neg, samples=64, updates=updates, passes=passes, steps=4)
    backbone = state.components.backbone
    seen: list[Tensor] = []
    backward = trainer._backward

    def record(state: Any, batch: Any, micro_batch: int) -> Tensor:
        seen.append(batch.x_t)
        return backward(state, batch, micro_batch)

    monkeypatch.setattr(trainer, "_backward", record)
    evaluated = {name: count_rows(monkeypatch, getattr(backbone, name)()) for name in ("policy", "reference")}
    metrics = trainer.round(state)
    distinct = max(points) + 1
    assert [torch.equal(x_t, seen[i]) for x_t, i in zip(seen, points, strict=True)] == [True] * updates
    assert len({float(x_t[0, 0]) for x_t in seen}) == distinct
    # The reference once for each set of points; of the policy's weights the sampling ones as often, and for samples.
    rows = {name: sum(counts) for name, counts in evaluated.items()}
    assert rows == {"policy": 64 * (4 + distinct + updates), "reference": 64 * distinct}
    assert metrics["nfe"] == sum(rows.values())


def count_rows(monkeypatch: pytest.MonkeyPatch, field: Any) -> list[int]:
    """The rows that a field is evaluated on from now on, call by call."""
    counts: list[int] = []
    velocity = field.velocity

    def counted(t: Tensor, x: Tensor, condition: Any) -> Tensor:
        counts.append(len(x))
        return velocity(t, x, condition)

    monkeypatch.setattr(field, "velocity", counted)
    return counts


def test_the_time_of_a_round_is_without_what_measures_diversity(lab: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer, state = lab.start()
    trainer.round(state)
    features = type(state.components).features

    def slow(*args: Any) -> Tensor:
        time.sleep(2)
        return features(*args)

    monkeypatch.setattr(type(state.components), "features", slow)
    assert trainer.round(state)["seconds"] < 2


def test_a_loss_of_another_shape_is_refused(lab: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer, state = lab.start()
    right = trainer._loss
    monkeypatch.setattr(trainer, "_loss", lambda batch, v: right(batch, v)[:, None])
    with pytest.raises(RunError, match=r"loss has shape \(64, 1\), expected \(64,\)"):
        trainer.round(state)


def test_divergence_is_zero_at_the_start_only(lab: Any) -> None:
    trainer, state = lab.start(weighting=Exp(1.0), updates=2)
    assert trainer.round(state)["velocity_divergence"] == 0.0
    assert trainer.round(state)["velocity_divergence"] > 0.0


def test_updates_without_a_finite_gradient_are_skipped_counted_and_end_the_run(lab: Any) -> None:
    trainer, state = lab.start(weighting=lambda scores: torch.full_like(scores, torch.inf), max_skipped=6)
    before = [p.clone() for p in state.ema.parameters]
    metrics = trainer.round(state)
    assert metrics["skipped"] == 4
    assert metrics["loss"] is None
    assert all(torch.equal(a, b) for a, b in zip(before, state.ema.parameters, strict=True))
    with pytest.raises(SkippedTooOften, match=r"round 2: 6 updates in a row .*gradient is not finite") as e:
        trainer.round(state)
    assert {"x_1", "t", "x_t", "u_t", "w"} <= e.value.inputs.keys()


def test_one_bad_update_is_forgiven(lab: Any) -> None:
    weights = iter([torch.inf] + [1.0] * 9)

    def weighting(scores: Tensor) -> Tensor:
        return torch.full_like(scores, next(weights))

    trainer, state = lab.start(weighting=weighting, updates=1, max_skipped=2)
    assert [trainer.round(state)["skipped"] for _ in range(3)] == [1, 0, 0]
    assert state.skipped == 0
    assert all(p.isfinite().all() for p in state.ema.parameters)


def test_a_round_without_a_valid_score_changes_nothing(lab: Any) -> None:
    trainer, state = lab.start(lambda x: Scores(x[:, 0], torch.zeros(len(x), dtype=torch.bool)), max_skipped=8)
    before = [p.clone() for p in state.ema.parameters]
    metrics = trainer.round(state)
    assert (metrics["skipped"], metrics["invalid"], metrics["reward_mean"]) == (4, 64, None)
    assert all(torch.equal(a, b) for a, b in zip(before, state.ema.parameters, strict=True))
    with pytest.raises(SkippedTooOften, match="no sample has a valid score"):
        trainer.round(state)


def test_out_of_memory_halves_the_micro_batch_and_changes_no_result(lab: Any) -> None:
    trainer, state = lab.start(samples=64)
    other, small = lab.start(samples=64)
    policy = small.components.backbone.policy()
    velocity = policy.velocity

    def cramped(t: torch.Tensor, x: torch.Tensor, condition: Any) -> torch.Tensor:
        if len(x) > 20:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
        return velocity(t, x, condition)

    policy.velocity = cramped
    expected, found = trainer.round(state), other.round(small)
    assert small.micro_batch == 16
    for key in ("loss", "grad_norm", "reward_mean", "velocity_divergence"):
        assert found[key] == pytest.approx(expected[key], rel=1e-5)
    policy.velocity = lambda t, x, condition: (_ for _ in ()).throw(MemoryError())
    with pytest.raises(RunError, match="out of memory with a single sample"):
        other.round(small)


@pytest.mark.parametrize("count", [1, 2, 7, 64, 1000])
def test_stratified_times_cover_each_interval_once(count: int) -> None:
    g = torch.Generator().manual_seed(count)
    t = stratified_times(count, g)
    ordered = t.double().sort().values * count
    # float32 may round a draw up to the end of its interval.
    offset = ordered - torch.arange(count)
    assert float(offset.min()) >= -1e-4
    assert float(offset.max()) <= 1 + 1e-4
    assert count < 10 or not torch.equal(t, t.sort().values)


def test_stratified_times_are_uniform() -> None:
    g = torch.Generator().manual_seed(0)
    t = torch.stack([stratified_times(4, g) for _ in range(2000)]).double()
    assert float((t.mean(0) - 0.5).abs().max()) < 0.03
    assert float((t.var(0) - 1 / 12).abs().max()) < 0.01


def test_learning_rate_warms_up_and_decays(lab: Any) -> None:
    config = lab.start(rounds=50, updates=4, lr=0.01, warmup=9, decay=0.2)[0].config
    rates = [learning_rate(config, i) for i in range(201)]
    assert rates[0] == pytest.approx(0.001)
    assert rates[200] == pytest.approx(0.002)
    assert max(rates) <= 0.01
    assert all(a < b for a, b in pairwise(rates[:10]))
    assert all(a > b for a, b in pairwise(rates[10:]))


def test_a_sample_that_is_not_a_number_weighs_nothing(lab: Any) -> None:
    trainer, state = lab.start(weighting=Exp(1.0))
    noise = state.noise
    calls = iter([True])

    def broken(count: int) -> Tensor:
        x = noise(count)
        if next(calls, False):
            x[3] = torch.nan
        return x

    state.noise = broken
    # What is drawn as no number is scored as 0, and must not count.
    state.components.heldout = [Judge("zeros", FunctionReward(lambda x: (x == 0).all(1).float()), True)]
    metrics = trainer.round(state)
    assert metrics["invalid"] == 1
    assert metrics["heldout_zeros"] == 0
    assert all(p.isfinite().all() for p in parameters(state))


@pytest.mark.parametrize(("satisfied", "known"), [(1, False), (2, True)])
def test_the_diversity_of_a_single_sample_is_not_known(lab: Any, satisfied: int, known: bool) -> None:
    _, state = lab.start()
    judge = FunctionReward(lambda x: (torch.arange(len(x)) < satisfied).float())
    state.components.heldout = [Judge("first", judge, points=True, probability=True)]
    found = evaluate(state, 16)
    assert found["satisfying_share"] == satisfied / 16
    assert (found["satisfying_diversity"] is not None) == known


def test_a_penalty_of_another_shape_ends_the_run_with_its_name(lab: Any) -> None:
    trainer, state = lab.start(alpha=1.0)
    state.components.regularizer.penalty = lambda v, v_ref, t, x, weights: (v - v_ref).square().mean()
    with pytest.raises(RunError, match=r"regularizer SquaredDistance: returned shape \(\), expected \(64,\)"):
        trainer.round(state)


def test_prompts_take_turns_over_the_rounds(lab: Any) -> None:
    trainer, state = lab.start(samples=6)
    state.components.prompts = ("a", "b", "c", "d")
    seen = [trainer._prompts(state)[0]]
    state.round = 1
    seen.append(trainer._prompts(state)[0])
    assert seen == [["a", "b", "c", "d", "a", "b"], ["c", "d", "a", "b", "c", "d"]]
