"""Solvers of the probability-flow ODE `dx/dt = v(t, x)` from noise (t=0) to data (t=1)."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from orwcfm_core.backbone import Condition, VelocityField
from orwcfm_core.config import AdaptiveConfig, FixedStepConfig, SamplerConfig
from orwcfm_core.errors import RunError

__all__ = [
    "Adams",
    "Dopri5",
    "Euler",
    "FixedStep",
    "Heun",
    "Midpoint",
    "OneStep",
    "RungeKutta4",
    "Sample",
    "Sampler",
    "build_sampler",
]


class Sample(NamedTuple):
    """What a sampler returns: samples `x_1`, `(B, *)`, and model evaluations per sample, `nfe`."""

    x_1: Tensor
    nfe: int


class Sampler(ABC):
    """Carries noise to data along a velocity field."""

    @abstractmethod
    def sample(self, field: VelocityField, noise: Tensor, condition: Condition) -> Sample:
        """Integrate from t=0 to t=1.

        Args:
            field: Policy or reference.
            noise: Standard normal, `(B, *)`.
            condition: From `Backbone.encode`, for B samples.
        """


Velocity = Callable[[Tensor, Tensor], Tensor]


class FixedStep(Sampler):
    """A given number of steps.

    Steps end at `t / (t + shift (1 - t))` of equally spaced t. Large pictures keep their coarse form under more noise
    than small ones, so that a model of them decides it nearer to t=0, where a shift above 1 puts more steps.

    References:
        Scaling Rectified Flow Transformers (Esser et al., 2024), arXiv:2403.03206, equation 23, in its time `1 - t`

    Args:
        steps: Number of steps, at least 1.
        shift: More than 0; 1 makes the steps equal.
    """

    stages: int
    """Model evaluations per step."""

    def __init__(self, steps: int, shift: float = 1.0) -> None:
        self.shift = shift
        self.times = tuple(i / (i + shift * (steps - i)) for i in range(steps + 1))
        """Where steps begin and end, `steps + 1` times from 0 to 1."""


class OneStep(FixedStep):
    """Steps that need nothing of those before; a subclass states one."""

    @abstractmethod
    def step(self, v: Velocity, t: Tensor, x: Tensor, h: float) -> Tensor:
        """Carry `x` from `t` to `t + h`."""

    @torch.no_grad()
    def sample(self, field: VelocityField, noise: Tensor, condition: Condition) -> Sample:
        """Integrate from t=0 to t=1 along `times`."""

        def v(t: Tensor, x: Tensor) -> Tensor:
            return field.velocity(t, x, condition)

        x = noise
        for start, end in pairwise(self.times):
            x = self.step(v, _time_for(noise, start), x, end - start)
        return Sample(x, self.stages * (len(self.times) - 1))


class Euler(OneStep):
    """First order: `x + h v(t, x)`."""

    stages = 1

    def step(self, v: Velocity, t: Tensor, x: Tensor, h: float) -> Tensor:
        return x + h * v(t, x)


class Midpoint(OneStep):
    """Second order: `x + h v(t + h/2, x + h/2 v(t, x))`."""

    stages = 2

    def step(self, v: Velocity, t: Tensor, x: Tensor, h: float) -> Tensor:
        return x + h * v(t + h / 2, x + h / 2 * v(t, x))


class Heun(OneStep):
    """Second order: `x + h/2 (k1 + k2)` with `k1 = v(t, x)`, `k2 = v(t + h, x + h k1)`."""

    stages = 2

    def step(self, v: Velocity, t: Tensor, x: Tensor, h: float) -> Tensor:
        k1 = v(t, x)
        k2 = v(t + h, x + h * k1)
        return x + h / 2 * (k1 + k2)


class RungeKutta4(OneStep):
    """Fourth order: `x + h/6 (k1 + 2 k2 + 2 k3 + k4)`, the classical Runge-Kutta method."""

    stages = 4

    def step(self, v: Velocity, t: Tensor, x: Tensor, h: float) -> Tensor:
        k1 = v(t, x)
        k2 = v(t + h / 2, x + h / 2 * k1)
        k3 = v(t + h / 2, x + h / 2 * k2)
        k4 = v(t + h, x + h * k3)
        return x + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4)


class Adams(FixedStep):
    """Second order with one evaluation a step: each is used twice, to correct a step and to predict the next.

    A step of size h from `x` with velocity `v`, after one of size g that began with velocity `u`:

        y = x + h (v + h/(2 g) (v - u))     predicted (Adams and Bashforth)
        w = velocity(t + h, y)
        x + h/2 (v + w)                     corrected (Adams and Moulton: the trapezoidal rule)

    and `w` is the velocity of the next step. The first step has none before it: `y = x + h v`. The last ends at `y`.

    References:
        Solving Ordinary Differential Equations I, III.1 (Hairer, Norsett and Wanner, 1993)
        UniPC: A Unified Predictor-Corrector Framework for Fast Sampling of Diffusion Models (Zhao et al., 2023),
        arXiv:2302.04867: a corrector that takes no further evaluation
    """

    stages = 1

    @torch.no_grad()
    def sample(self, field: VelocityField, noise: Tensor, condition: Condition) -> Sample:
        """Integrate from t=0 to t=1 along `times`."""
        # At time t: the last step began in x with velocity v, had size h, and is predicted to end in y.
        h, x, y = 0.0, noise, noise
        v = torch.zeros_like(noise)
        for start, end in pairwise(self.times):
            w = field.velocity(_time_for(noise, start), y, condition)
            x = x + h / 2 * (v + w)
            slope = w + (end - start) / (2 * h) * (w - v) if h else w
            h, v = end - start, w
            y = x + h * slope
        return Sample(y, len(self.times) - 1)


class Dopri5(Sampler):
    """Adaptive fifth order with an embedded fourth-order error estimate; the whole batch takes the same steps.

    A step of size h is accepted where the root mean square of `error / (atol + rtol |x|)` is at most 1; the next h is
    `0.9 h error^(-1/5)`, within a factor of 5. The last stage of an accepted step is the first of the next.

    References:
        A family of embedded Runge-Kutta formulae (Dormand and Prince, 1980)
        Solving Ordinary Differential Equations I, II.4 (Hairer, Norsett and Wanner, 1993)

    Args:
        rtol: Relative tolerance.
        atol: Absolute tolerance.

    Raises:
        RunError: The velocity is NaN or infinite.
    """

    _a = (
        (1 / 5,),
        (3 / 40, 9 / 40),
        (44 / 45, -56 / 15, 32 / 9),
        (19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729),
        (9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656),
        (35 / 384, 0.0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84),
    )
    _c = (1 / 5, 3 / 10, 4 / 5, 8 / 9, 1.0, 1.0)
    _error = (71 / 57600, 0.0, -71 / 16695, 71 / 1920, -17253 / 339200, 22 / 525, -1 / 40)

    def __init__(self, rtol: float, atol: float) -> None:
        self.rtol = rtol
        self.atol = atol

    @torch.no_grad()
    def sample(self, field: VelocityField, noise: Tensor, condition: Condition) -> Sample:
        """Integrate from t=0 to t=1 with as many steps as the tolerances ask for."""

        def v(t: float, x: Tensor) -> Tensor:
            return field.velocity(_time_for(noise, t), x, condition)

        x, t, h = noise, 0.0, 0.1
        k1, nfe = v(t, x), 1
        while t < 1.0:
            h = min(h, 1.0 - t)
            k = [k1]
            for c, row in zip(self._c, self._a, strict=True):
                x_next = x + h * sum(a * k_i for a, k_i in zip(row, k, strict=True))
                k.append(v(t + c * h, x_next))
            nfe += len(self._c)
            error = h * sum(e * k_i for e, k_i in zip(self._error, k, strict=True))
            tolerance = self.atol + self.rtol * torch.maximum(x.abs(), x_next.abs())
            ratio = float((error / tolerance).square().mean().sqrt())
            if not math.isfinite(ratio):
                raise RunError(f"sampler dopri5: the velocity is not finite at t={t:g}")
            if ratio <= 1.0:
                # The sum of many h misses 1 by rounding; the last step lands on it.
                t = 1.0 if h == 1.0 - t else t + h
                x, k1 = x_next, k[-1]
            h *= min(5.0, max(0.2, 0.9 * max(ratio, 1e-10) ** -0.2))
        return Sample(x, nfe)


def _time_for(noise: Tensor, t: float) -> Tensor:
    """A time for the model, of shape `()`, filled on the device: a number that is copied there makes the host wait."""
    return torch.full((), t, dtype=noise.dtype, device=noise.device)


_FIXED: dict[str, type[FixedStep]] = {
    "euler": Euler,
    "midpoint": Midpoint,
    "heun": Heun,
    "adams": Adams,
    "rk4": RungeKutta4,
}


def build_sampler(config: SamplerConfig) -> Sampler:
    """The sampler that a configuration describes."""
    match config:
        case AdaptiveConfig():
            return Dopri5(config.rtol, config.atol)
        case FixedStepConfig():
            return _FIXED[config.name](config.steps, config.shift)
    raise TypeError(f"expected a sampler's configuration, got {type(config).__name__}")
