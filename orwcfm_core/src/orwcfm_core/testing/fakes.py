"""Small components to test others with: fields with few parameters, a backbone of points, rewards that are one line."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Self

import torch
from torch import Tensor

from orwcfm_core.backbone import Backbone, Condition, Policy, Reference
from orwcfm_core.objective import Objective, Term
from orwcfm_core.regularizer import Regularizer
from orwcfm_core.reward import Reward, Scores
from orwcfm_core.sampler import Euler
from orwcfm_core.trainer import Components, State, Trainer
from orwcfm_core.weighting import Weighting

__all__ = [
    "AffineBackbone",
    "AffineField",
    "FunctionReward",
    "FunctionWeighting",
    "SquaredDistance",
    "perturb",
    "start",
]


class AffineField(Policy, Reference):
    """`v(t, x) = slope x + rate t + offset`; with `constant`, the offset alone.

    Args:
        dim: Dimensions of a point.
        constant: Leave out slope and rate.
        requires_grad: Whether it is trained.
    """

    def __init__(self, dim: int, constant: bool, requires_grad: bool) -> None:
        self.offset = torch.zeros(dim, requires_grad=requires_grad)
        self.slope = torch.zeros(dim, dim, requires_grad=requires_grad)
        self.rate = torch.zeros(dim, requires_grad=requires_grad)
        self.constant = constant

    def velocity(self, t: Tensor, x: Tensor, condition: Condition) -> Tensor:
        if self.constant:
            return self.offset.expand_as(x)
        return x @ self.slope.T + t.reshape(-1, 1) * self.rate + self.offset

    def parameters(self) -> Mapping[str, Tensor]:
        names = ["offset"] if self.constant else ["offset", "slope", "rate"]
        return {name: getattr(self, name) for name in names}


class AffineBackbone(Backbone):
    """Points with affine fields; policy and reference start as zero.

    Args:
        dim: Dimensions of a point.
        constant: Velocities do not depend on time and place.
        trainable_reference: Let gradients reach the reference, to see that nobody sends any.
    """

    def __init__(self, dim: int = 2, constant: bool = False, trainable_reference: bool = False) -> None:
        self.dim = dim
        self._policy = AffineField(dim, constant, requires_grad=True)
        self._reference = AffineField(dim, constant, requires_grad=trainable_reference)

    @property
    def sample_shape(self) -> tuple[int, ...]:
        return (self.dim,)

    def policy(self) -> AffineField:
        return self._policy

    def reference(self) -> AffineField:
        return self._reference

    def encode(self, prompts: Sequence[str]) -> Condition:
        return {}

    def to_images(self, x_1: Tensor) -> Tensor:
        return x_1.sigmoid()[:, None, None, :]

    def to(self, device: torch.device) -> Self:
        return self


class FunctionReward(Reward):
    """Scores with a function of the images.

    Args:
        function: From images to scores `(B,)`, or to `Scores`.
    """

    def __init__(self, function: Callable[[Tensor], Any]) -> None:
        self.function = function

    def score(self, images: Tensor, prompts: Sequence[str]) -> Scores:
        return self.function(images)


class FunctionWeighting(Weighting):
    """Weights that are a function of the scores.

    Args:
        function: From scores `(B,)` to weights `(B,)`.
    """

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        self.function = function

    def weights(self, scores: Tensor, valid: Tensor, groups: Tensor) -> Tensor:
        return self.function(scores)


class SquaredDistance(Regularizer):
    """Mean square of `v - v_ref`."""

    def penalty(self, v: Tensor, v_ref: Tensor, t: Tensor, x: Tensor, weights: Tensor) -> Tensor:
        return (v - v_ref).flatten(1).square().mean(1)


def perturb(parameters: Mapping[str, Tensor], seed: int = 0) -> None:
    """Move parameters a little, each by a share of its own size, and those that are zero as well."""
    source = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in parameters.values():
            size = 0.02 + 0.1 * float(parameter.float().square().mean().sqrt())
            noise = torch.randn(parameter.shape, generator=source)
            parameter.add_((size * noise).to(parameter.device, parameter.dtype))


def start(
    trainer: Trainer,
    reward: Reward,
    regularizer: Regularizer,
    weighting: Weighting,
    backbone: Backbone,
    *,
    ema: float = 0.0,
    steps: int = 4,
) -> State:
    """The state before the first round, on the CPU, of a run on points without prompts.

    Args:
        trainer: Who trains.
        reward: Of points.
        regularizer: Of any kind.
        weighting: Of any kind.
        backbone: Of points.
        ema: Decay per round of the sampling policy.
        steps: Of the sampler.
    """
    parts = Components(
        backbone=backbone,
        objective=Objective([Term("reward", reward, points=True)]),
        regularizer=regularizer,
        weighting=weighting,
        sampler=Euler(steps),
    )
    return trainer.start(parts, ema, torch.device("cpu"))
