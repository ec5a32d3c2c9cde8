"""What keeps the policy near the reference."""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor

__all__ = ["Regularizer"]


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
