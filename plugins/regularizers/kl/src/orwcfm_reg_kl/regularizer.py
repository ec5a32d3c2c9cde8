"""The KL divergence between the paths of policy and reference."""

from __future__ import annotations

from orwcfm_core.regularizer import Regularizer
from torch import Tensor

from orwcfm_reg_kl.plugin import Config

__all__ = ["PathKL"]


class PathKL(Regularizer):
    """Rate of the path-space KL of the stochastic differential equation that shares the flow's marginals.

    On x_t = (1-t) x_0 + t x_1 with Gaussian x_0 the score is s = (t v - x) / (1-t), so that

        dx = [v + sigma_t^2 / 2 s] dt + sigma_t dW

    has the marginals of the flow dx = v dt. Between policy and reference, which share sigma_t, the drifts differ by
    (1 + sigma_t^2 t / (2 (1-t))) (v - v_ref), and by Girsanov's theorem

        KL = int_0^1 E_{x ~ p_t} |difference of the drifts|^2 / (2 sigma_t^2) dt

    With Flow-GRPO's noise level, in this direction of time sigma_t = noise sqrt((1-t) / t), the integrand is

        (1 + noise^2 / 2)^2 t / (2 noise^2 (1-t)) |v - v_ref|^2

    The penalty is this, averaged over the d dimensions of a sample as in `w2`: for t uniform in [0, 1] and x from the
    policy, d times its expectation is the KL. It diverges at t = 1; later times count as `t_max`.

    Args:
        config: Options.

    References:
        Flow-GRPO: Training Flow Matching Models via Online RL (Liu et al., 2025), https://arxiv.org/abs/2505.05470
    """

    def __init__(self, config: Config) -> None:
        super().__init__(config.alpha)
        self.noise = config.noise
        self.t_max = config.t_max

    def penalty(self, v: Tensor, v_ref: Tensor, t: Tensor, x: Tensor, weights: Tensor) -> Tensor:
        t = t.clamp(max=self.t_max)
        rate = (1 + self.noise**2 / 2) ** 2 * t / (2 * self.noise**2 * (1 - t))
        return rate * (v - v_ref).flatten(1).square().mean(1)
