"""What keeps the policy near the reference."""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor

from orwcfm_core.errors import RunError
from orwcfm_core.registry import blame

__all__ = ["Regularizer", "penalise"]


class Regularizer(ABC):
    """A penalty on the distance between policy and reference, of strength `alpha`.

    Args:
        alpha: Strength, at least 0. With weights of mean 1 it is comparable across rewards (docs/method.md).
    """

    def __init__(self, alpha: float) -> None:
        self.alpha = alpha

    @abstractmethod
    def penalty(self, v: Tensor, v_ref: Tensor, t: Tensor, x: Tensor, weights: Tensor) -> Tensor:
        """The penalty before it is multiplied by `alpha`.

        Args:
            v: Velocity of the policy, `(B, *)`.
            v_ref: Velocity of the reference at the same points, `(B, *)`.
            t: Time in [0, 1], `(B,)`.
            x: Point on the path, `(B, *)`.
            weights: Weights of the samples, `(B,)`.

        Returns:
            Penalty per sample, `(B,)`.
        """


def penalise(regularizer: Regularizer, v: Tensor, v_ref: Tensor, t: Tensor, x: Tensor, weights: Tensor) -> Tensor:
    """The penalty, `(B,)`, checked; arguments as in `Regularizer.penalty`.

    Raises:
        RunError: The regularizer raised, or returned another shape.
    """
    with blame(f"regularizer {type(regularizer).__name__}", RunError):
        penalty = regularizer.penalty(v, v_ref, t, x, weights)
        if penalty.shape != weights.shape:
            raise RunError(f"returned shape {tuple(penalty.shape)}, expected {tuple(weights.shape)}")
    return penalty
