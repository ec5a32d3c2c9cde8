"""DiffusionNFT."""

from __future__ import annotations

from orwcfm_core.orw_cfm import mean_square
from orwcfm_core.velocity_trainer import Velocities, VelocityTrainer
from torch import Tensor

from orwcfm_trainer_forward.plugin import NftConfig

__all__ = ["Nft"]


class Nft(VelocityTrainer):
    """Two implicit policies about the sampling policy: one is drawn to what was good, the other to what was not.

    With w the weight of the sample, in [-1, 1], and r the probability that it is a good one,

        r    = 1/2 + clip(w, -1, 1) / 2
        v_+  = v_old + beta (v - v_old)
        v_-  = v_old - beta (v - v_old)
        loss = ( r D(v_+) + (1 - r) D(v_-) ) / beta,   D(v) = |v - u_t|^2

    At v = v_old its gradient is that of `w |v - u_t|^2`, whatever beta is. With `self_normalise`, errors are measured
    in the sample that a velocity predicts, x_1 = x_t + (1-t) v, and divided by their size, which has no gradient:

        D(v) = (1-t)^2 |v - u_t|^2 / ( (1-t) mean_i |v_i - u_i| )

    Args:
        config: Options of section `train`.

    References:
        DiffusionNFT: Online Diffusion Reinforcement with Forward Process (Zheng et al., 2025), arXiv:2509.16117
    """

    config: NftConfig

    def loss(self, at: Velocities) -> Tensor:
        beta = self.config.beta
        r = 0.5 + at.w.clamp(-1, 1) / 2
        away = beta * (at.v - at.v_old)
        positive, negative = (self._distance(v - at.u_t, at.t) for v in (at.v_old + away, at.v_old - away))
        return (r * positive + (1 - r) * negative) / beta

    def _distance(self, error: Tensor, t: Tensor) -> Tensor:
        """D, `(B,)`, of an error `v - u_t`, `(B, *)`."""
        if not self.config.self_normalise:
            return mean_square(error)
        size = (1 - t) * error.detach().flatten(1).abs().mean(1)
        return (1 - t).square() * mean_square(error) / size.clamp_min(1e-5)
