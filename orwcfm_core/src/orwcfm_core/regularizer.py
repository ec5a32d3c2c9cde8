"""What keeps the policy near the reference."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from orwcfm_core.errors import RunError
from orwcfm_core.registry import blame

__all__ = ["Anchor", "Regularizer", "Sum", "penalise"]


@dataclass(frozen=True)
class Anchor:
    """What a regularizer holds the policy to: shares of its strength, which add up to 1.

    Args:
        reference: Share that holds to the reference.
        ema: Share that holds to the sampling policy.
    """

    reference: float = 1.0
    ema: float = 0.0

    @classmethod
    def named(cls, name: str, ema_share: float) -> Anchor:
        """`reference`, `ema`, or `both` with a share for the sampling policy."""
        ema = {"reference": 0.0, "ema": 1.0, "both": ema_share}[name]
        return cls(1 - ema, ema)


class Regularizer(ABC):
    """A penalty on the distance between policy and reference, of strength `alpha`.

    Args:
        alpha: Strength, at least 0. With weights of mean 1 it is comparable across rewards (docs/method.md).
    """

    anchor = Anchor()
    """What it holds to; the run sets it (option `reg.anchor`)."""

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

    @property
    def needs_old(self) -> bool:
        """Whether it holds to the sampling policy as well."""
        return self.anchor.ema > 0

    def anchored(self, v: Tensor, v_ref: Tensor, v_old: Tensor | None, t: Tensor, x: Tensor, weights: Tensor) -> Tensor:
        """The penalty with regard to what it holds to: `share_ref R(v, v_ref) + share_ema R(v, v_old)`.

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
        parts = []
        for share, v_anchor in ((self.anchor.reference, v_ref), (self.anchor.ema, v_old)):
            if share:
                if v_anchor is None:
                    raise RunError("holds to the sampling policy, which this trainer does not evaluate: reg.anchor")
                parts.append(share * self.penalty(v, v_anchor, t, x, weights))
        return parts[0] if len(parts) == 1 else parts[0] + parts[1]


class Sum(Regularizer):
    """Several regularizers: `alpha R = sum_i alpha_i R_i` with `alpha = sum_i alpha_i`.

    The penalty is thus the mean of theirs, weighted by their strengths; unweighted if all of them are 0.

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
        return self.anchored(v, v_ref, None, t, x, weights)

    def anchored(self, v: Tensor, v_ref: Tensor, v_old: Tensor | None, t: Tensor, x: Tensor, weights: Tensor) -> Tensor:
        penalties = torch.stack(
            [penalise(part, v, v_ref, t, x, weights, name, v_old) for name, part in self.parts.items()]
        )
        shares = torch.tensor(
            [part.alpha / self.alpha if self.alpha else 1 / len(self.parts) for part in self.parts.values()]
        )
        return shares.to(penalties) @ penalties


def penalise(
    regularizer: Regularizer,
    v: Tensor,
    v_ref: Tensor,
    t: Tensor,
    x: Tensor,
    weights: Tensor,
    name: str = "",
    v_old: Tensor | None = None,
) -> Tensor:
    """The penalty, `(B,)`, checked; arguments as in `Regularizer.anchored`, and the name for messages.

    Raises:
        RunError: The regularizer raised, or returned another shape.
    """
    with blame(f"regularizer {name or type(regularizer).__name__}", RunError):
        penalty = regularizer.anchored(v, v_ref, v_old, t, x, weights)
        if penalty.shape != weights.shape:
            raise RunError(f"returned shape {tuple(penalty.shape)}, expected {tuple(weights.shape)}")
    return penalty
