"""Each check of a regularizer fails the regularizers that it is for, and those alone."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from orwcfm_core.plugin import ComponentConfig, RegularizerSpec
from orwcfm_core.regularizer import Regularizer
from pydantic import Field
from torch import Tensor


class Config(ComponentConfig):
    """A strength."""

    alpha: float = Field(0.5, ge=0, description="Strength.")


def spec(config: type[ComponentConfig] = Config, **declared: Any) -> RegularizerSpec:
    return RegularizerSpec(name="toy", summary="A toy.", config=config, factory="x:Y", **declared)


def square(v: Tensor, v_ref: Tensor) -> Tensor:
    return (v - v_ref).flatten(1).square().mean(1)


def spoiled(penalty: Any, strength: Any = lambda alpha: alpha) -> Any:
    """Builds a regularizer of a function of `v, v_ref, t, weights, alpha`."""

    class Spoiled(Regularizer):
        def __init__(self, config: Config) -> None:
            super().__init__(strength(config.alpha))
            self.given = config.alpha

        def penalty(self, v: Tensor, v_ref: Tensor, t: Tensor, x: Tensor, weights: Tensor) -> Tensor:
            return penalty(v, v_ref, t, weights, self.given)

    return Spoiled


def first_alone(v: Tensor, v_ref: Tensor, t: Tensor, weights: Tensor, alpha: float) -> Tensor:
    """Only the first sample has a gradient."""
    value = square(v, v_ref)
    return torch.where(torch.arange(len(v)) == 0, value, value.detach())


def forgets_reference(v: Tensor, v_ref: Tensor, t: Tensor, weights: Tensor, alpha: float) -> Tensor:
    value = square(v, v_ref)
    v_ref.zero_()
    return value


WRONG = {
    "no batch of one": (spoiled(lambda v, r, t, w, a: square(v, r).squeeze()), {}, "penalty"),
    "points alone": (spoiled(lambda v, r, t, w, a: (v - r).square().mean(1)), {}, "penalty"),
    "not finite": (spoiled(lambda v, r, t, w, a: square(v, r) / (len(v) - 1) * (len(v) - 1)), {}, "penalty"),
    "negative": (spoiled(lambda v, r, t, w, a: (v - r).flatten(1).mean(1)), {}, "non_negative"),
    "above zero": (spoiled(lambda v, r, t, w, a: square(v, r) + 1), {}, "zero_at_reference"),
    "gradient at one sample": (spoiled(first_alone), {}, "batch_order"),
    "root of the weights": (spoiled(lambda v, r, t, w, a: square(v, r) * w.sqrt()), {}, "penalty"),
    "negative with its weight": (spoiled(lambda v, r, t, w, a: w * square(v, r)), {}, "non_negative"),
    "infinite gradient": (
        spoiled(lambda v, r, t, w, a: square(v, r) + (v - v.detach()).flatten(1).sum(1).sqrt()),
        {},
        "gradient",
    ),
    "a root": (spoiled(lambda v, r, t, w, a: square(v, r).sqrt()), {}, "gradient"),
    "writes to v_ref": (spoiled(forgets_reference), {}, "inputs_unchanged"),
    "detached in training": (
        spoiled(lambda v, r, t, w, a: square(v if v.is_leaf else v.detach(), r)),
        {},
        "policy_alone",
    ),
    "multiplied twice": (spoiled(lambda v, r, t, w, a: a * square(v, r)), {}, "alpha"),
    "forgets its strength": (spoiled(lambda v, r, t, w, a: square(v, r), lambda alpha: 1.0), {}, "alpha"),
    "place in the batch": (spoiled(lambda v, r, t, w, a: square(v, r) * (1 + torch.arange(len(v)))), {}, "batch_order"),
}


@pytest.mark.parametrize(("make", "declared", "fails"), WRONG.values(), ids=WRONG)
def test_a_wrong_regularizer_fails_its_check(make: Any, declared: Any, fails: str, failures: Any) -> None:
    assert list(failures("regularizer", spec(**declared), make)) == [fails]


def test_without_a_gradient_both_checks_of_it_fail(failures: Any) -> None:
    make = spoiled(lambda v, r, t, w, a: square(v.detach(), r))
    assert list(failures("regularizer", spec(), make)) == ["gradient", "policy_alone"]


class Strong(ComponentConfig):
    """A strength that must be large."""

    alpha: float = Field(2.0, ge=2, description="Strength.")


def test_a_strength_may_have_bounds(failures: Any) -> None:
    assert not failures("regularizer", spec(Strong), spoiled(lambda v, r, t, w, a: square(v, r)))


class NoOptions(ComponentConfig):
    """None."""


class Nothing(Regularizer):
    def __init__(self, config: NoOptions) -> None:
        super().__init__(0.0)

    def penalty(self, v: Tensor, v_ref: Tensor, t: Tensor, x: Tensor, weights: Tensor) -> Tensor:
        return v.new_zeros(len(v))


GOOD = {
    "square": (spoiled(lambda v, r, t, w, a: square(v, r)), {}),
    "signed": (spoiled(lambda v, r, t, w, a: (v - r).flatten(1).mean(1)), {"non_negative": False}),
    "weighted": (spoiled(lambda v, r, t, w, a: w * t * square(v, r)), {"non_negative": False}),
    "trust region": (spoiled(lambda v, r, t, w, a: (square(v, r) - 3).clamp_min(0)), {}),
    "wide trust region": (spoiled(lambda v, r, t, w, a: (square(v, r) - 100).clamp_min(0)), {}),
    "late": (spoiled(lambda v, r, t, w, a: (t > 0.9) * square(v, r)), {}),
    "early": (spoiled(lambda v, r, t, w, a: (t < 0.1) * square(v, r)), {}),
    "near alone": (spoiled(lambda v, r, t, w, a: square(v, r).clamp_max(5)), {}),
    "steep": (spoiled(lambda v, r, t, w, a: square(v, r).exp() - 1), {}),
    "none": (Nothing, {"config": NoOptions}),
}


@pytest.mark.parametrize(("make", "declared"), GOOD.values(), ids=GOOD)
def test_a_good_regularizer_passes(make: Any, declared: Any, failures: Any) -> None:
    assert failures("regularizer", spec(**declared), make) == {}


@pytest.mark.parametrize(("power", "fails"), [(1, []), (2, ["closed_form"])])
def test_the_closed_form_is_compared(power: int, fails: list[str], failures: Any) -> None:
    def closed_form(delta: Tensor, t: Tensor) -> Tensor:
        return t**power * delta.square().mean()

    make = spoiled(lambda v, r, t, w, a: t * square(v, r))
    assert list(failures("regularizer", spec(), make, closed_form)) == fails
