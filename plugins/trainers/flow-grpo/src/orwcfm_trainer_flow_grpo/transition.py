"""One step of the stochastic sampler, a Gaussian whose mean is linear in the velocity."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["Transition"]


class Transition(NamedTuple):
    """The step from x at time t to x' at time t' = t + h: `x' ~ N(keep x + move v, std^2 I)`.

    On x_t = (1-t) x_0 + t x_1 with Gaussian x_0, the score is (t v - x) / (1-t), and

        dx = [v + sigma_t^2 / 2 score] dt + sigma_t dW,   sigma_t = noise sqrt((1-t) / t)

    has the marginals of the flow dx = v dt. The Euler-Maruyama step of size h is thus

        keep = 1 - h s,   move = h (1 + s t),   std = sigma_t sqrt(h),   s = sigma_t^2 / (2 (1-t))

    In the first step, where sigma_t is infinite, the t below its fraction line is t'.

    References:
        Flow-GRPO: Training Flow Matching Models via Online RL (Liu et al., 2025), arXiv:2505.05470

    Args:
        keep: `(N,)`.
        move: `(N,)`.
        std: `(N,)`.
    """

    keep: Tensor
    move: Tensor
    std: Tensor

    @classmethod
    def at(cls, t: Tensor, end: Tensor, noise: float) -> Transition:
        """The steps between some times.

        Args:
            t: Where they begin, `(N,)`, less than 1.
            end: Where they end, `(N,)`, at most 1.
            noise: Noise level.
        """
        h = end - t
        variance = noise**2 * (1 - t) / torch.where(t > 0, t, end)
        s = variance / (2 * (1 - t))
        return cls(1 - h * s, h * (1 + s * t), (variance * h).sqrt())

    def step(self, x: Tensor, v: Tensor, noise: Tensor) -> Tensor:
        """The point x' that standard normal noise leads to; all `(N, *)`."""
        return _like(self.keep, x) * x + _like(self.move, x) * v + _like(self.std, x) * noise

    def velocity(self, x: Tensor, x_next: Tensor) -> Tensor:
        """The velocity whose step without noise leads from x to x', `(N, *)`."""
        return (x_next - _like(self.keep, x) * x) / _like(self.move, x)

    def log_prob(self, v: Tensor, u: Tensor) -> Tensor:
        """Log-density of x' = keep x + move u, a mean over dimensions as the authors take it, `(N,)`.

        Args:
            v: Velocity of whom it is the step, `(N, *)`.
            u: From `velocity`, `(N, *)`.
        """
        z = self.move / self.std
        return -0.5 * z.square() * (v - u).flatten(1).square().mean(1) - self.std.log() - 0.5 * math.log(2 * math.pi)


def _like(scale: Tensor, x: Tensor) -> Tensor:
    """`(N,)` as `(N, 1, ...)`."""
    return scale.view(-1, *[1] * (x.ndim - 1))
