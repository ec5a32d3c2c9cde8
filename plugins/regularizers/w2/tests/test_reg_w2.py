"""The W2 penalty against distances that are known in closed form."""

from __future__ import annotations

import math

import pytest
import torch
from orwcfm_reg_w2.plugin import Config, orwcfm_regularizers
from orwcfm_reg_w2.regularizer import W2
from pydantic import ValidationError


def penalty(v: torch.Tensor, v_ref: torch.Tensor, t: torch.Tensor | None = None) -> torch.Tensor:
    t = torch.rand(len(v)) if t is None else t
    return W2(Config()).penalty(v, v_ref, t, torch.zeros_like(v), torch.ones(len(v)))


def test_one_value_per_sample_averaged_over_dimensions() -> None:
    v = torch.zeros(3, 2, 2, 2)
    v_ref = torch.zeros(3, 2, 2, 2)
    v_ref[1, 0, 0, 0] = 4.0
    v_ref[2] = -3.0
    assert penalty(v, v_ref).tolist() == [0.0, 2.0, 9.0]


def test_a_constant_shift_attains_the_bound() -> None:
    # Moved by a constant velocity from the same noise, the two end in Gaussians whose means are that far apart, and
    # L = 0: W_2^2 is the squared distance of the means.
    shift = torch.tensor([0.3, -1.2, 0.4, 0.0], dtype=torch.float64)
    x_1 = torch.randn(5, 4, dtype=torch.float64)
    value = penalty(x_1 + shift, x_1)
    torch.testing.assert_close(4 * value, torch.full((5,), 0.09 + 1.44 + 0.16, dtype=torch.float64))


@pytest.mark.parametrize(("a", "a_ref"), [(0.5, 0.2), (-0.3, 0.4), (0.8, 0.0)])
def test_linear_flows_keep_to_the_bound(a: float, a_ref: float) -> None:
    # dx = a x dt from N(0, 1) ends in N(0, e^{2a}): W_2 between the two ends is |e^a - e^{a_ref}|, and L = |a_ref|.
    d, steps = 3, 400
    integral = 0.0
    for k in range(steps):
        s = (k + 0.5) / steps
        # Points with the exact second moment e^{2 a s} in every dimension.
        x = math.exp(a * s) * torch.tensor([[1.0, -1.0, 1.0], [-1.0, 1.0, 1.0]], dtype=torch.float64)
        integral += d * float(penalty(a * x, a_ref * x).mean()) / steps
    exact = d * (math.exp(a) - math.exp(a_ref)) ** 2
    assert exact <= math.exp(2 * abs(a_ref)) * integral
    assert exact >= 0.5 * integral * math.exp(-2 * abs(a_ref))


def test_gradient_reaches_the_policy_and_vanishes_at_the_reference() -> None:
    v = torch.randn(2, 3, requires_grad=True)
    (at_reference,) = torch.autograd.grad(penalty(v, v.detach().clone()).sum(), v)
    assert at_reference.abs().max() == 0
    (elsewhere,) = torch.autograd.grad(penalty(v, torch.zeros(2, 3)).sum(), v)
    assert elsewhere.abs().min() > 0


@pytest.mark.parametrize("options", [{"alpha": -0.1}, {"alpha": "nan"}, {"alpha": "inf"}, {"strength": 1}])
def test_wrong_options(options: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        Config.model_validate(options)


def test_spec_and_alpha() -> None:
    (spec,) = orwcfm_regularizers()
    assert spec.name == "w2"
    assert spec.config is Config
    assert W2(Config.model_validate({"alpha": "0.3"})).alpha == 0.3
