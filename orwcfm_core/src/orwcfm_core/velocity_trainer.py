"""Methods whose loss is a function of velocities: those of the policy, the reference and the sampling policy."""

from __future__ import annotations

from abc import abstractmethod
from typing import NamedTuple

import torch
from torch import Tensor

from orwcfm_core.orw_cfm import Batch, Lesson, OrwCfm
from orwcfm_core.trainer import State

__all__ = ["Velocities", "VelocityTrainer", "clipped_surrogate"]


class Velocities(NamedTuple):
    """What the loss of a micro-batch is a function of.

    Args:
        t: Times, `(B,)`.
        x_t: Points, `(B, *)`.
        u_t: Velocities of the paths that the points lie on, `(B, *)`.
        w: Weights of the samples that the paths lead to, `(B,)`.
        v: The policy at these points, `(B, *)`; the only one with a gradient.
        v_ref: The reference there, `(B, *)`.
        v_old: The sampling policy there, `(B, *)`.
    """

    t: Tensor
    x_t: Tensor
    u_t: Tensor
    w: Tensor
    v: Tensor
    v_ref: Tensor
    v_old: Tensor


class VelocityTrainer(OrwCfm):
    """A round as in `OrwCfm` with another loss, which a subclass states.

    Samples come from the sampling policy, and each update draws points on paths to them and minimises the mean of
    `loss` plus the regularizer's `alpha R`. Other hooks: `collect`, `lesson`, `points`.
    """

    @abstractmethod
    def loss(self, at: Velocities) -> Tensor:
        """The loss of each row without the regularizer, `(B,)`; squared norms are means over dimensions."""

    def _needs_old(self, state: State, lesson: Lesson) -> bool:
        return True

    def _loss(self, batch: Batch, v: Tensor) -> Tensor:
        assert batch.v_old is not None
        return self.loss(Velocities(batch.t, batch.x_t, batch.u_t, batch.w, v, batch.v_ref, batch.v_old))


def clipped_surrogate(w: Tensor, log_ratio: Tensor, clip: float) -> Tensor:
    """PPO's loss `max(-w rho, -w clip(rho, 1 - clip, 1 + clip))` with `rho = exp(log_ratio)`.

    Beyond the clip, a sample that has already become likelier (w > 0) or unlikelier (w < 0) has no gradient.

    References:
        Proximal Policy Optimization Algorithms (Schulman et al., 2017), arXiv:1707.06347

    Args:
        w: Advantages, `(B,)`.
        log_ratio: Logarithm of the ratio of likelihoods, `(B,)`.
        clip: Above 0.

    Returns:
        `(B,)`.
    """
    rho = log_ratio.exp()
    return torch.maximum(-w * rho, -w * rho.clamp(1 - clip, 1 + clip))
