"""The penalty that bounds the Wasserstein-2 distance between policy and reference."""

from __future__ import annotations

from orwcfm_core.regularizer import Regularizer
from torch import Tensor

from orwcfm_reg_w2.plugin import Config

__all__ = ["W2"]


class W2(Regularizer):
    """Mean squared difference of the velocities of policy and reference.

    With L the Lipschitz constant of the reference's velocity in x,

        W_2^2(p_1, p_1^ref) <= e^{2L} int_0^1 E_{x ~ p_s} |v(s, x) - v_ref(s, x)|^2 ds

    The penalty is `|v - v_ref|^2 / d` at one point of one path. For t uniform in [0, 1] and x from the policy, d times
    its expectation is therefore the integral; the division by the number of dimensions d makes an alpha mean the same
    at every resolution.

    Args:
        config: Options.

    References:
        Online Reward-Weighted Fine-Tuning of Flow Matching with Wasserstein Regularization (Fan et al., 2025), eq. 10,
        https://arxiv.org/abs/2502.06061
    """

    def __init__(self, config: Config) -> None:
        super().__init__(config.alpha)

    def penalty(self, v: Tensor, v_ref: Tensor, t: Tensor, x: Tensor, weights: Tensor) -> Tensor:
        return (v - v_ref).flatten(1).square().mean(1)
