"""What keeps the policy near the reference."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping

import torch
from torch import Tensor

from orwcfm_core.errors import RunError
from orwcfm_core.registry import blame

__all__ = ["Regularizer", "Sum", "penalise"]


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


class Sum(Regularizer):
    """Several regularizers: `alpha R = sum_i alpha_i R_i` with `alpha = sum_i alpha_i`.

    The penalty is thus the mean of theirs, weighted by their strengths; unweighted if all of them are 0.

    Args:
        parts: By name, at least one.
    """

    def __init__(self, parts: Mapping[str, Regularizer]) -> None:
        super().__init__(sum(part.alpha for part in parts.values()))
        self.parts = parts

    def penalty(self, v: Tensor, v_ref: Tensor, t: Tensor, x: Tensor, weights: Tensor) -> Tensor:
        penalties = torch.stack([penalise(part, v, v_ref, t, x, weights, name) for name, part in self.parts.items()])
        shares = torch.tensor(
            [part.alpha / self.alpha if self.alpha else 1 / len(self.parts) for part in self.parts.values()]
        )
        return shares.to(penalties) @ penalties


def penalise(
    regularizer: Regularizer, v: Tensor, v_ref: Tensor, t: Tensor, x: Tensor, weights: Tensor, name: str = ""
) -> Tensor:
    """The penalty, `(B,)`, checked; arguments as in `Regularizer.penalty`, and the name for messages.

    Raises:
        RunError: The regularizer raised, or returned another shape.
    """
    with blame(f"regularizer {name or type(regularizer).__name__}", RunError):
        penalty = regularizer.penalty(v, v_ref, t, x, weights)
        if penalty.shape != weights.shape:
            raise RunError(f"returned shape {tuple(penalty.shape)}, expected {tuple(weights.shape)}")
    return penalty
