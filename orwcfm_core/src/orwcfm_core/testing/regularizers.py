"""Checks of a regularizer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, cast

import torch
from torch import Tensor

from orwcfm_core.config import TrainConfig
from orwcfm_core.orw_cfm import OrwCfm
from orwcfm_core.plugin import RegularizerSpec
from orwcfm_core.regularizer import Regularizer
from orwcfm_core.testing.fakes import (
    AffineBackbone,
    FunctionReward,
    FunctionWeighting,
    SquaredDistance,
    perturb,
    start,
)
from orwcfm_core.testing.subject import Subject
from orwcfm_core.testing.tools import Skip, close, expect, generator

__all__ = [
    "CHECKS",
    "alpha",
    "batch_order",
    "closed_form",
    "gradient",
    "inputs_unchanged",
    "non_negative",
    "penalty",
    "policy_alone",
    "zero_at_reference",
]

_SHAPE = (3, 4, 4)
_MANY = 16
"""Samples whose times cover most of [0, 1]."""
_DISTANCES = (1.0, 3.0, 10.0, 30.0)
"""Between policy and reference: a penalty may begin only where they are apart."""


class _Inputs(NamedTuple):
    """What a penalty is a function of."""

    v: Tensor
    v_ref: Tensor
    t: Tensor
    x: Tensor
    weights: Tensor


def penalty(subject: Subject) -> None:
    """A batch of B samples gets B finite penalties, for B = 1 and 5, of points and images, whatever the weights."""
    for shape in ((7,), _SHAPE):
        for count in (1, 5):
            inputs = _inputs(count, shape)
            got = _penalty(subject, inputs)
            expect(got.shape == (count,), f"expected shape {(count,)} for v {(count, *shape)}, got {tuple(got.shape)}")
            expect(bool(got.isfinite().all()), "the penalty is NaN or infinite")
            signed = _penalty(subject, inputs._replace(weights=-inputs.weights))
            expect(
                bool(signed.isfinite().all()),
                "the penalty is NaN or infinite where weights are negative, as those of --weighting advantage are",
            )


def non_negative(subject: Subject) -> None:
    """The penalty is never below 0, if the spec says so."""
    if not cast(RegularizerSpec, subject.spec).non_negative:
        raise Skip("declares non_negative=False")
    inputs = _inputs(64)
    for sign, when in ((1, ""), (-1, " where the weight is negative")):
        got = _penalty(subject, inputs._replace(weights=sign * inputs.weights))
        below = got[got < 0]
        expect(not len(below), f"a penalty of {float(got.min()):.6g}{when}: declare non_negative=False")


def zero_at_reference(subject: Subject) -> None:
    """The penalty is 0 where the policy is the reference."""
    inputs = _inputs()
    largest = float(_penalty(subject, inputs._replace(v=inputs.v_ref.clone())).abs().max())
    expect(largest <= 1e-6, f"expected 0 where v equals v_ref, got {largest:.6g}")


def gradient(subject: Subject) -> None:
    """A gradient reaches the policy's velocity at some sample, near the reference or far from it; all are finite."""
    _only_if_strong(subject)
    expect(
        bool(_gradient(subject, _inputs(_MANY, distance=0.0)).isfinite().all()),
        "the gradient is NaN or infinite where v equals v_ref, where every run begins: add something within a root",
    )
    for distance in _DISTANCES:
        found = _gradient(subject, _inputs(_MANY, distance=distance))
        expect(distance > 1 or bool(found.isfinite().all()), "the gradient at v is NaN or infinite")
        if (found.isfinite() & (found != 0)).any():
            return
    samples = _MANY * len(_DISTANCES)
    raise AssertionError(f"the gradient is 0 at all of {samples} samples where v differs from v_ref: do not detach v")


def inputs_unchanged(subject: Subject) -> None:
    """What is passed in is not written to: the trainer goes on with it."""
    inputs = _inputs()
    given = _Inputs(*(tensor.clone() for tensor in inputs))
    _penalty(subject, given)
    changed = [name for name, a, b in zip(inputs._fields, inputs, given, strict=True) if not torch.equal(a, b)]
    expect(not changed, f"{', '.join(changed)} changed: work on a copy")


def policy_alone(subject: Subject) -> None:
    """In a round of training the penalty moves the policy, if it is far enough, and the reference stays as it is."""
    _only_if_strong(subject)
    chosen, none = _regularizer(subject), SquaredDistance(0.0)
    moved = (not torch.equal(*(_trained(each, distance) for each in (chosen, none))) for distance in (0, *_DISTANCES))
    expect(any(moved), "in a round of training no gradient of the penalty reaches the policy")


def alpha(subject: Subject) -> None:
    """The option `alpha` is the strength; the penalty is the same whatever it is, for the trainer multiplies."""
    if "alpha" not in subject.spec.config.model_fields:
        raise Skip("has no option alpha")
    # Of its own size, for it may have bounds.
    whole = float(getattr(subject.config, "alpha", 0.0)) or 0.5
    wanted = (whole, 1.5 * whole)
    weak, strong = (cast(Regularizer, subject.build(alpha=value)) for value in wanted)
    expect(
        (weak.alpha, strong.alpha) == wanted,
        f"expected strengths {wanted[0]:g} and {wanted[1]:g}, got {weak.alpha} and {strong.alpha}: call "
        "super().__init__(config.alpha)",
    )
    first, second = (chosen.penalty(*_inputs()) for chosen in (weak, strong))
    expect(close(second, first), "the penalty depends on alpha: leave the multiplication to the trainer")


def batch_order(subject: Subject) -> None:
    """Samples in another order get the same penalties, and the same gradients, in that order."""
    inputs, order = _inputs(), [3, 0, 4, 2, 1]
    reordered = _Inputs(*(tensor[order] for tensor in inputs))
    got, wanted = _penalty(subject, reordered), _penalty(subject, inputs)[order]
    expect(close(got, wanted), "the penalty of a sample depends on its place in the batch")
    found, kept = _gradient(subject, reordered).nan_to_num(), _gradient(subject, inputs)[order].nan_to_num()
    expect(close(found, kept), "the gradient at a sample depends on its place in the batch")


def closed_form(subject: Subject) -> None:
    """The penalty of affine flows that differ by a constant is what theory says."""
    source = generator(8)
    slope, delta = (torch.randn(shape, generator=source, dtype=torch.float64) for shape in ((4, 4), (4,)))
    t = torch.linspace(0, 1, 9, dtype=torch.float64)
    x = torch.randn((9, 4), generator=source, dtype=torch.float64)
    wanted = subject.closed_form(delta, t) if subject.closed_form else None
    if wanted is None:
        raise Skip("no closed form is given")
    v_ref = x @ slope.T + t[:, None]
    got = _regularizer(subject).penalty(v_ref + delta, v_ref, t, x, torch.ones_like(t))
    wanted = torch.as_tensor(wanted, dtype=torch.float64).expand_as(t)
    gap = (got - wanted).abs()
    row = int(gap.argmax())
    expect(
        bool((gap <= 1e-6 + 1e-6 * wanted.abs()).all()),
        f"expected {float(wanted[row]):.6g} at t = {float(t[row]):.3g}, got {float(got[row]):.6g}",
    )


def _regularizer(subject: Subject) -> Regularizer:
    return cast(Regularizer, subject.component)


def _only_if_strong(subject: Subject) -> None:
    if _regularizer(subject).alpha == 0:
        raise Skip("has strength 0")


def _inputs(count: int = 5, shape: tuple[int, ...] = _SHAPE, distance: float = 1.0) -> _Inputs:
    """Standard normal velocities, all over the time.

    Args:
        count: Samples.
        shape: Of a sample.
        distance: Factor of the difference between policy and reference.
    """
    source = generator(count)
    v, v_ref, x = (torch.randn((count, *shape), generator=source) for _ in range(3))
    first, weights = (torch.rand(count, generator=source) for _ in range(2))
    t = (torch.arange(count) + first) / count
    return _Inputs(v_ref + distance * (v - v_ref), v_ref, t, x, weights)


def _penalty(subject: Subject, inputs: _Inputs) -> Tensor:
    got = _regularizer(subject).penalty(*inputs)
    expect(isinstance(got, Tensor), f"expected a tensor, got a {type(got).__name__}")
    return got


def _gradient(subject: Subject, inputs: _Inputs) -> Tensor:
    """The gradient of all penalties at the policy's velocity; 0 where none is."""
    v = inputs.v.clone().requires_grad_()
    got = _penalty(subject, inputs._replace(v=v))
    if not got.requires_grad:
        return torch.zeros_like(v)
    (found,) = torch.autograd.grad(got.sum(), v, allow_unused=True)
    return torch.zeros_like(v) if found is None else found


def _trained(regularizer: Regularizer, distance: float) -> Tensor:
    """Gradients of the policy in a round that starts away from the reference, which must get none.

    Args:
        regularizer: What is trained with.
        distance: How far away.
    """
    backbone = AffineBackbone(dim=3, trainable_reference=True)
    trainer = OrwCfm(TrainConfig(device="cpu", precision="fp32", samples=16, updates=1, clip_norm=1e9))
    reward, weighting = FunctionReward(lambda x: x[:, 0]), FunctionWeighting(torch.ones_like)
    state = start(trainer, reward, regularizer, weighting, backbone)
    perturb(backbone.policy().parameters())
    with torch.no_grad():
        backbone.policy().offset.add_(distance)
    trainer.round(state)
    reference = backbone.reference().parameters().values()
    expect(
        all(p.grad is None and not p.any() for p in reference),
        "the reference is trained: the penalty must see it as a constant",
    )
    gradients = [p.grad for p in backbone.policy().parameters().values()]
    return torch.cat([g.flatten() for g in gradients if g is not None])


CHECKS: Sequence[Callable[[Subject], None]] = (
    penalty,
    non_negative,
    zero_at_reference,
    gradient,
    inputs_unchanged,
    policy_alone,
    alpha,
    batch_order,
    closed_form,
)
"""In the order in which they run."""
