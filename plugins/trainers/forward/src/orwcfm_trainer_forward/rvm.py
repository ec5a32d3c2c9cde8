"""Reward-based velocity matching."""

from __future__ import annotations

from orwcfm_core.orw_cfm import mean_square
from orwcfm_core.velocity_trainer import Velocities, VelocityTrainer
from torch import Tensor

__all__ = ["Rvm"]


class Rvm(VelocityTrainer):
    """Towards the velocities of good samples, away from those of bad ones, near an anchor.

    With A the signed, clipped advantage of the sample (its weight),

        loss = A |v - u_t|^2 + alpha |v - v_anchor|^2

    The second term is the regularizer's: `--reg w2`, and `reg.anchor` is `reference` or `ema`. Where
    E[A | x_t] + alpha < 0 the loss is unbounded below. With `--reg adaptive-w2` and reg.sensitivity = 1 / alpha the
    anchor's strength is alpha - A, and the method ADRPO.

    References:
        Scaling Reinforcement Learning for Diffusion Models via Velocity Matching (Choi et al., 2026), arXiv:2608.23664
    """

    def loss(self, at: Velocities) -> Tensor:
        return at.w * mean_square(at.v - at.u_t)
