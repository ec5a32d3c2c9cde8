"""Samplers against fields whose solution is known."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from orwcfm_core.backbone import Condition, VelocityField
from orwcfm_core.config import AdaptiveConfig, FixedStepConfig
from orwcfm_core.errors import RunError
from orwcfm_core.sampler import Dopri5, Euler, Sampler, build_sampler
from torch import Tensor

ORDERS = {"euler": 1, "midpoint": 2, "heun": 2, "adams": 2, "rk4": 4}


class Swing(VelocityField):
    """`dx/dt = x (cos(2 t) + 1/2)`, so `x(1) = x(0) exp(sin(2)/2 + 1/2)`; counts its evaluations."""

    def __init__(self) -> None:
        self.evaluations = 0

    def velocity(self, t: Tensor, x: Tensor, condition: Condition) -> Tensor:
        self.evaluations += 1
        return x * (torch.cos(2 * t) + 0.5)


class Pendulum(VelocityField):
    """`x' = y, y' = -x - t`: not separable; the solution is `x = A cos t + B sin t - t`."""

    def velocity(self, t: Tensor, x: Tensor, condition: Condition) -> Tensor:
        return torch.stack([x[:, 1], -x[:, 0] - t], dim=1)


def start() -> Tensor:
    return torch.randn(5, 2, generator=torch.Generator().manual_seed(3), dtype=torch.float64)


def swing(x: Tensor) -> Tensor:
    return x * math.exp(math.sin(2) / 2 + 0.5)


def pendulum(x: Tensor) -> Tensor:
    a, b = x[:, 0], x[:, 1] + 1
    cos, sin = math.cos(1), math.sin(1)
    return torch.stack([a * cos + b * sin - 1, -a * sin + b * cos - 1], dim=1)


FIELDS = {"swing": (Swing, swing), "pendulum": (Pendulum, pendulum)}


def fixed(name: Any, steps: int, shift: float = 1.0) -> Sampler:
    return build_sampler(FixedStepConfig(name=name, steps=steps, shift=shift))


@pytest.mark.parametrize("field", FIELDS)
@pytest.mark.parametrize(("name", "order"), ORDERS.items())
def test_error_falls_with_the_order_of_the_method(name: str, order: int, field: str) -> None:
    velocity, solution = FIELDS[field]
    steps = [64, 128, 256, 512]
    errors = [
        float((fixed(name, n).sample(velocity(), start(), {}).x_1 - solution(start())).abs().max()) for n in steps
    ]
    slope = np.polyfit(np.log(steps), np.log(errors), 1)[0]
    assert slope == pytest.approx(-order, abs=0.1)


@pytest.mark.parametrize("shift", [0.5, 1.0, 3.0])
def test_steps_are_shorter_near_noise_with_a_shift(shift: float) -> None:
    times = Euler(8, shift).times
    # As Stable Diffusion 3 has it, for the share of noise, 1 - t.
    noise = [shift * s / (1 + (shift - 1) * s) for s in (1 - i / 8 for i in range(9))]
    assert times == pytest.approx([1 - s for s in noise])
    assert (times[0], times[-1]) == (0.0, 1.0)
    first, last = times[1], 1 - times[-2]
    assert (first < last) == (shift > 1)
    assert (first > last) == (shift < 1)


@pytest.mark.parametrize("name", ORDERS)
def test_a_shift_changes_the_way_and_not_the_end(name: str) -> None:
    noise = start()
    shifted = fixed(name, 200, 3.0).sample(Swing(), noise, {}).x_1
    torch.testing.assert_close(shifted, swing(noise), rtol=1e-2, atol=1e-2)
    few, equal = (fixed(name, 3, shift).sample(Swing(), noise, {}).x_1 for shift in (3.0, 1.0))
    assert not torch.equal(few, equal)


@pytest.mark.parametrize("name", [name for name, order in ORDERS.items() if order > 1])
@pytest.mark.parametrize("shift", [0.5, 1.0, 3.0])
def test_second_order_is_exact_where_velocity_is_linear_in_time(name: str, shift: float) -> None:
    class Falling(VelocityField):
        def velocity(self, t: Tensor, x: Tensor, condition: Condition) -> Tensor:
            return (2 * t).expand_as(x)

    torch.testing.assert_close(fixed(name, 5, shift).sample(Falling(), start(), {}).x_1, start() + 1)


@pytest.mark.parametrize("name", ORDERS)
@pytest.mark.parametrize("steps", [1, 5])
def test_model_evaluations_are_counted(name: str, steps: int) -> None:
    field = Swing()
    assert fixed(name, steps).sample(field, start(), {}).nfe == field.evaluations


@pytest.mark.parametrize("field", FIELDS)
@pytest.mark.parametrize("tolerance", [1e-3, 1e-6, 1e-9])
def test_dopri5_meets_its_tolerance(field: str, tolerance: float) -> None:
    velocity, solution = FIELDS[field]
    x_1 = build_sampler(AdaptiveConfig(rtol=tolerance, atol=tolerance)).sample(velocity(), start(), {}).x_1
    assert float((x_1 - solution(start())).abs().max()) < 10 * tolerance


def test_dopri5_counts_and_spends_more_for_a_smaller_tolerance() -> None:
    counts = []
    for tolerance in (1e-3, 1e-10):
        field = Swing()
        assert Dopri5(tolerance, tolerance).sample(field, start(), {}).nfe == field.evaluations
        counts.append(field.evaluations)
    assert counts[0] < counts[1] < 400


@pytest.mark.parametrize("sampler", [fixed("euler", 1), fixed("rk4", 3), Dopri5(1e-3, 1e-3)], ids=["1", "3", "dopri5"])
def test_constant_field_is_integrated_exactly_and_keeps_dtype(sampler: Sampler) -> None:
    class Constant(VelocityField):
        def velocity(self, t: Tensor, x: Tensor, condition: Condition) -> Tensor:
            return torch.full_like(x, 3.0)

    for dtype in (torch.float32, torch.float64):
        x_1 = sampler.sample(Constant(), start().to(dtype), {}).x_1
        assert x_1.dtype == dtype
        torch.testing.assert_close(x_1, start().to(dtype) + 3)


def test_dopri5_gives_up_on_a_field_that_is_not_finite() -> None:
    class Broken(Swing):
        def velocity(self, t: Tensor, x: Tensor, condition: Condition) -> Tensor:
            assert self.evaluations < 1000, "a step that is never accepted must not be tried for ever"
            return super().velocity(t, x, condition) * torch.nan

    with pytest.raises(RunError, match="not finite"):
        Dopri5(1e-3, 1e-3).sample(Broken(), start(), {})
