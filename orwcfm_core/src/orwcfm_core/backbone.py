"""What is fine-tuned: a policy (trainable velocity field), its frozen reference, and how both touch pictures."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Self

import torch
from torch import Tensor

__all__ = ["Backbone", "Condition", "Policy", "Reference", "VelocityField", "select"]

Condition = Mapping[str, Tensor]
"""What a backbone made of prompts: named tensors whose first dimension is the batch; empty if unconditional."""


def select(condition: Condition, rows: Tensor | slice) -> Condition:
    """The condition of the given rows.

    Args:
        condition: Tensors `(B, *)`.
        rows: Indices or mask into the batch, or a slice of it.
    """
    return {name: value[rows] for name, value in condition.items()}


class VelocityField(ABC):
    """A velocity field `v(t, x)` that carries noise (t=0) to data (t=1) along `dx/dt = v(t, x)`."""

    @abstractmethod
    def velocity(self, t: Tensor, x: Tensor, condition: Condition) -> Tensor:
        """Evaluate the field.

        Args:
            t: Time in [0, 1], `()` or `(B,)`.
            x: State, `(B, *)`.
            condition: From `Backbone.encode`, for B samples.

        Returns:
            Velocity, `(B, *)`, in the dtype of `x`.
        """


class Policy(VelocityField):
    """The field that is trained and sampled from."""

    @abstractmethod
    def parameters(self) -> Mapping[str, Tensor]:
        """The trainable parameters by name, always in the same order: what is optimised, averaged and saved."""


class Reference(VelocityField):
    """The pre-trained field: equal to the policy before training, and never trained."""


class Backbone(ABC):
    """A pre-trained flow matching model: the policy, the reference and the way to pictures."""

    @property
    @abstractmethod
    def sample_shape(self) -> tuple[int, ...]:
        """Shape of one sample, without the batch."""

    @abstractmethod
    def policy(self) -> Policy:
        """The trainable field, the same object every time."""

    @abstractmethod
    def reference(self) -> Reference:
        """The frozen field, the same object every time; shares the policy's weights where it can."""

    @abstractmethod
    def encode(self, prompts: Sequence[str]) -> Condition:
        """Turn B prompts into a condition; an unconditional backbone returns an empty one."""

    @abstractmethod
    def to_images(self, x_1: Tensor) -> Tensor:
        """Turn samples `(B, *)` into images `(B, C, H, W)` in [0, 1]."""

    def from_images(self, images: Tensor) -> Tensor | None:
        """Turn images `(B, C, H, W)` in [0, 1] of any size into samples `(B, *)`; None if there is no way."""
        return None

    @abstractmethod
    def to(self, device: torch.device) -> Self:
        """Move policy and reference to a device."""
