"""Gradients of the methods against derivations from their papers' equations."""

from __future__ import annotations

import pytest
import torch
from orwcfm_core.regularizer import Anchor
from orwcfm_core.testing.gradients import Update, one_update, trainer_on_gmm
from torch import Tensor

ALPHA, REFERENCE = 0.3, Anchor()


def signed(scores: Tensor) -> Tensor:
    """Advantages of both signs, some of them beyond 1."""
    return 3 * (scores - scores.mean())


def update(name: str, alpha: float = ALPHA, anchor: Anchor = REFERENCE, **options: object) -> Update:
    trainer, state = trainer_on_gmm(name, options, signed, alpha)
    state.components.regularizer.anchor = anchor
    found = one_update(trainer, state)
    assert found.w.min() < -0.5
    assert found.w.max() > 1
    return found


def squared(x: Tensor) -> Tensor:
    return (x * x).sum(1) / x.shape[1]


def agree(found: Update, loss: Tensor) -> None:
    derived = found.derived(loss)
    assert float(derived.norm()) > 1e-3
    torch.testing.assert_close(found.gradient, derived, rtol=2e-4, atol=2e-5 * float(derived.abs().max()))


@pytest.mark.parametrize("clip", [0.02, 1.0])
def test_awm(clip: float) -> None:
    at = update("awm", clip_range=clip)
    # Likelihoods p = exp(-|v - u|^2); PPO stops the gradient where p has moved far enough in the right direction.
    p, p_old = ((-squared(v - at.u_t)).exp() for v in (at.v, at.v_old))
    ratio = p / p_old
    enough = torch.where(at.w > 0, ratio >= 1 + clip, ratio <= 1 - clip)
    assert enough.any() == (clip < 1)
    loss = torch.where(enough, (at.w * ratio).detach(), at.w * ratio)
    agree(at, ALPHA * squared(at.v - at.v_ref) - loss)


@pytest.mark.parametrize("beta", [0.1, 1.0])
def test_nft(beta: float) -> None:
    at = update("nft", beta=beta, self_normalise=False)
    r = ((1 + at.w) / 2).clamp(0, 1)
    plus, minus = (1 - beta) * at.v_old + beta * at.v, (1 + beta) * at.v_old - beta * at.v
    loss = r * squared(plus - at.u_t) + (1 - r) * squared(minus - at.u_t)
    agree(at, loss / beta + ALPHA * squared(at.v - at.v_ref))


def test_nft_normalises_errors_of_the_predicted_sample() -> None:
    at, beta = update("nft", beta=0.4), 0.4
    x_1 = at.x_t + (1 - at.t[:, None]) * at.u_t
    loss = torch.zeros_like(at.t)
    for share, sign in ((0.5 + at.w.clamp(-1, 1) / 2, 1), (0.5 - at.w.clamp(-1, 1) / 2, -1)):
        error = at.x_t + (1 - at.t[:, None]) * (at.v_old + sign * beta * (at.v - at.v_old)) - x_1
        loss = loss + share * squared(error) / error.detach().abs().mean(1)
    agree(at, loss / beta + ALPHA * squared(at.v - at.v_ref))


@pytest.mark.parametrize(("anchor", "shares"), [("reference", (1.0, 0.0)), ("ema", (0.0, 1.0)), ("both", (1.0, 0.25))])
def test_rvm_and_its_anchors(anchor: str, shares: tuple[float, float]) -> None:
    at = update("rvm", anchor=Anchor.named(anchor, 0.25 * ALPHA))
    # The gradient at v is 2/d (A (v - u) + alpha (v - anchor)); as a loss, v times that without its own gradient.
    pull = sum(share * (at.v - held) for share, held in zip(shares, (at.v_ref, at.v_old), strict=True))
    slope = 2 / at.v.shape[1] * (at.w[:, None] * (at.v - at.u_t) + ALPHA * pull)
    agree(at, (slope.detach() * at.v).sum(1))


@pytest.mark.parametrize("name", ["awm", "nft", "rvm", "orw-cfm"])
def test_at_the_reference_all_have_the_gradient_of_the_signed_regression(name: str) -> None:
    options = {"self_normalise": False} if name == "nft" else {}
    trainer, state = trainer_on_gmm(name, options, lambda scores: signed(scores).clamp(-1, 1))
    trainer.round(state)
    got = torch.cat([p.grad.flatten() for p in state.ema.parameters if p.grad is not None])
    other, again = trainer_on_gmm("rvm", {}, lambda scores: signed(scores).clamp(-1, 1))
    other.round(again)
    wanted = torch.cat([p.grad.flatten() for p in again.ema.parameters if p.grad is not None])
    assert float(wanted.norm()) > 1e-3
    torch.testing.assert_close(got, wanted, rtol=1e-3, atol=1e-5)


def test_model_evaluations_are_counted() -> None:
    trainer, state = trainer_on_gmm("rvm", {"updates": 2}, signed)
    assert trainer.round(state)["nfe"] == 48 * 4 + 2 * 3 * 48


@pytest.mark.parametrize("name", ["awm", "nft"])
def test_bounded_below_where_all_weights_are_negative(name: str) -> None:
    options = {"updates": 60, "rounds": 1, "lr": 0.02, "decay": 0.0}
    trainer, state = trainer_on_gmm(name, options, lambda scores: -torch.ones_like(scores))
    # AWM's is at least 0, for a ratio is positive; NFT's is a sum of squares.
    assert 0 <= trainer.round(state)["loss"] < 3
