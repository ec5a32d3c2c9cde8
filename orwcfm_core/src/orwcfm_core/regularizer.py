"""What keeps the policy near the reference."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from orwcfm_core.errors import RunError
from orwcfm_core.registry import blame

__all__ = ["Anchor", "Penalty", "Regularizer", "Sum", "penalise"]


@dataclass
class Anchor:
    """What a regularizer holds the policy to.

    Args:
        reference: Whether its alpha holds to the reference; otherwise to the sampling policy.
        ema_alpha: Strength that holds to the sampling policy besides, at least 0; a schedule may change it.
    """

    reference: bool = True
    ema_alpha: float = 0.0

    @classmethod
    def named(cls, name: str, ema_alpha: float) -> Anchor:
        """`reference`, `ema`, or `both`, where `ema_alpha` counts."""
        return cls(name != "ema", ema_alpha if name == "both" else 0.0)


class Penalty(NamedTuple):
    """What a regularizer says of a batch.

    Args:
        value: `R(v, v_ref)`, or `R(v, v_old)` where it holds to the sampling policy alone, `(B,)`.
        cost: What is added to the loss: `alpha R(v, v_ref) + ema_alpha R(v, v_old)`, `(B,)`.
    """

    value: Tensor
    cost: Tensor


class Regularizer(ABC):
    """A penalty on the distance between policy and reference, of strength `alpha`.

    Args:
        alpha: Strength, at least 0. With weights of mean 1 it is comparable across rewards (docs/method.md).
    """

    def __init__(self, alpha: float) -> None:
        self.alpha = alpha
        self.anchor = Anchor()
        """What it holds to; the run sets it (option `reg.anchor`)."""
        self.label = f"regularizer {type(self).__name__}"
        """What messages call it; the run sets it."""

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

    @property
    def needs_old(self) -> bool:
        """Whether it holds to the sampling policy as well."""
        return not self.anchor.reference or self.anchor.ema_alpha > 0

    def anchored(
        self, v: Tensor, v_ref: Tensor, v_old: Tensor | None, t: Tensor, x: Tensor, weights: Tensor
    ) -> Penalty:
        """The penalty with regard to what it holds to.

        Args:
            v: As in `penalty`.
            v_ref: As in `penalty`.
            v_old: Velocity of the sampling policy, `(B, *)`; None if nobody computed it.
            t: As in `penalty`.
            x: As in `penalty`.
            weights: As in `penalty`.

        Raises:
            RunError: It holds to the sampling policy, and there is no `v_old`.
        """
        if v_old is None:
            if self.needs_old:
                raise RunError("holds to the sampling policy, which this trainer does not evaluate: reg.anchor")
            v_old = v_ref
        value = self.penalty(v, v_ref if self.anchor.reference else v_old, t, x, weights)
        cost = self.alpha * value
        if self.anchor.ema_alpha:
            cost = cost + self.anchor.ema_alpha * self.penalty(v, v_old, t, x, weights)
        return Penalty(value, cost)


class Sum(Regularizer):
    """Several regularizers, whose costs add up.

    Its alpha is the sum of theirs, its penalty the mean of theirs, weighted by their alphas; unweighted if all are 0.

    Args:
        parts: By name, at least one.
    """

    def __init__(self, parts: Mapping[str, Regularizer]) -> None:
        self.parts = parts

    # Read-only here, where the base class has an attribute: it follows from the parts.
    @property
    def alpha(self) -> float:  # type: ignore[override]
        """The sum of the strengths as they are now; schedules change those of the parts."""
        return sum(part.alpha for part in self.parts.values())

    @property
    def needs_old(self) -> bool:
        return any(part.needs_old for part in self.parts.values())

    def penalty(self, v: Tensor, v_ref: Tensor, t: Tensor, x: Tensor, weights: Tensor) -> Tensor:
        return self.anchored(v, v_ref, None, t, x, weights).value

    def anchored(
        self, v: Tensor, v_ref: Tensor, v_old: Tensor | None, t: Tensor, x: Tensor, weights: Tensor
    ) -> Penalty:
        found = [penalise(part, v, v_ref, t, x, weights, v_old) for part in self.parts.values()]
        values, costs = (torch.stack(column) for column in zip(*found, strict=True))
        shares = torch.tensor(
            [part.alpha / self.alpha if self.alpha else 1 / len(self.parts) for part in self.parts.values()]
        )
        return Penalty(shares.to(values) @ values, costs.sum(0))


def penalise(
    regularizer: Regularizer,
    v: Tensor,
    v_ref: Tensor,
    t: Tensor,
    x: Tensor,
    weights: Tensor,
    v_old: Tensor | None = None,
) -> Penalty:
    """The penalty and its cost, checked; arguments as in `Regularizer.anchored`.

    Raises:
        RunError: The regularizer raised, or returned another shape, or no tensor.
    """
    if isinstance(regularizer, Sum):
        # Each of them is checked, and blamed, by itself.
        return regularizer.anchored(v, v_ref, v_old, t, x, weights)
    with blame(regularizer.label, RunError):
        found = regularizer.anchored(v, v_ref, v_old, t, x, weights)
        if not isinstance(found.value, Tensor):
            raise RunError(f"returned a {type(found.value).__name__}, expected a tensor")
        if found.value.shape != weights.shape:
            raise RunError(f"returned shape {tuple(found.value.shape)}, expected {tuple(weights.shape)}")
    return found
