"""Advantage-weighted matching."""

from __future__ import annotations

from orwcfm_core.orw_cfm import mean_square
from orwcfm_core.velocity_trainer import Velocities, VelocityTrainer, clipped_surrogate
from torch import Tensor

from orwcfm_trainer_forward.plugin import AwmConfig

__all__ = ["Awm"]


class Awm(VelocityTrainer):
    """Policy gradients whose log-likelihood is the negative flow matching loss, `log p = -|v - u_t|^2`.

    With A the advantage of the sample (its weight) and v_old the sampling policy,

        rho  = exp( |v_old - u_t|^2 - |v - u_t|^2 )
        loss = max( -A rho, -A clip(rho, 1 - clip_range, 1 + clip_range) )

    At v = v_old its gradient is that of `A |v - u_t|^2`. Both velocity penalties of the paper, to the reference and to
    the moving average, are the regularizer's: `reg.anchor=both`.

    Args:
        config: Options of section `train`.

    References:
        Advantage Weighted Matching: Aligning RL with Pretraining in Diffusion Models (Xue et al., 2025),
        arXiv:2509.25050
    """

    config: AwmConfig

    def loss(self, at: Velocities) -> Tensor:
        log_ratio = mean_square(at.v_old - at.u_t) - mean_square(at.v - at.u_t)
        return clipped_surrogate(at.w, log_ratio, self.config.clip_range)
