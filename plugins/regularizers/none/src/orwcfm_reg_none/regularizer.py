"""No penalty at all."""

from __future__ import annotations

from orwcfm_core.regularizer import Regularizer
from torch import Tensor

from orwcfm_reg_none.plugin import Config

__all__ = ["NoPenalty"]


class NoPenalty(Regularizer):
    """Zero, of strength zero: reward-weighted regression without an anchor, which collapses in the end.

    Args:
        config: Has no options.
    """

    def __init__(self, config: Config) -> None:
        super().__init__(alpha=0.0)

    def penalty(self, v: Tensor, v_ref: Tensor, t: Tensor, x: Tensor, weights: Tensor) -> Tensor:
        return v.new_zeros(len(v))
