"""The W2 penalty with a strength for each sample."""

from __future__ import annotations

from orwcfm_core.regularizer import Regularizer
from torch import Tensor

from orwcfm_reg_adaptive_w2.plugin import Config

__all__ = ["AdaptiveW2"]


class AdaptiveW2(Regularizer):
    """Mean squared difference of the velocities, with a strength that falls with the sample's advantage w.

        alpha R = alpha clip(1 - sensitivity w, low, high) |v - v_ref|^2

    With sensitivity = 1 / alpha the strength is `alpha - w`: ADRPO, whose loss for advantage A and strength beta_0 is
    `A |v - u_t|^2 + (beta_0 - A) |v - v_ref|^2`. Its curvature is beta_0 for every sample, unless the clip cuts in.

    Args:
        config: Options.

    References:
        Adaptive Divergence Regularized Policy Optimization for Fine-tuning Generative Models (Fan et al., 2025),
        https://arxiv.org/abs/2510.18053
    """

    def __init__(self, config: Config) -> None:
        super().__init__(config.alpha)
        self.sensitivity = config.sensitivity
        self.low, self.high = config.low, config.high

    def penalty(self, v: Tensor, v_ref: Tensor, t: Tensor, x: Tensor, weights: Tensor) -> Tensor:
        strength = (1 - self.sensitivity * weights).clamp(self.low, self.high)
        return strength * (v - v_ref).flatten(1).square().mean(1)
