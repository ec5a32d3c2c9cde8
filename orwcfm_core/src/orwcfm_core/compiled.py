"""Policy and reference through torch.compile, with shapes that never change."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Self

import torch
from torch import Tensor

from orwcfm_core.backbone import Backbone, Condition, Policy, Reference, VelocityField, select
from orwcfm_core.errors import UserError

__all__ = ["Compiled"]


class _Field(VelocityField):
    """A field that is compiled for one number of rows: batches are cut to it, the last piece is padded.

    Args:
        field: What is compiled.
        rows: How many rows; compiled anew where that changes.
    """

    def __init__(self, field: VelocityField, rows: Callable[[], int]) -> None:
        self._rows = rows
        self._compiled = torch.compile(field.velocity, dynamic=False)

    def velocity(self, t: Tensor, x: Tensor, condition: Condition) -> Tensor:
        # One shape for all times as well: sampling has a single one for the batch, an update one for each row.
        t, size = t.expand(len(x)), self._rows()
        if len(x) == size:
            return self._compiled(t.contiguous(), x, condition)
        pieces = []
        for start in range(0, len(x), size):
            # What is missing is filled up with copies of the last row.
            rows = torch.arange(start, start + size, device=x.device).clamp_max(len(x) - 1)
            pieces.append(self._compiled(t[rows], x[rows], select(condition, rows)))
        return torch.cat(pieces)[: len(x)]


class _Policy(_Field, Policy):
    def __init__(self, policy: Policy, rows: Callable[[], int]) -> None:
        super().__init__(policy, rows)
        self._policy = policy

    def parameters(self) -> Mapping[str, Tensor]:
        return self._policy.parameters()


class _Reference(_Field, Reference):
    pass


class Compiled(Backbone):
    """A backbone whose policy and reference are compiled; all else is its own.

    Args:
        backbone: The backbone.
        rows: How many samples the fields are compiled for.
    """

    def __init__(self, backbone: Backbone, rows: Callable[[], int]) -> None:
        self._backbone = backbone
        self._rows = rows
        self._policy = _Policy(backbone.policy(), rows)
        self._reference = _Reference(backbone.reference(), rows)

    @property
    def sample_shape(self) -> tuple[int, ...]:
        return self._backbone.sample_shape

    def policy(self) -> Policy:
        return self._policy

    def reference(self) -> Reference:
        return self._reference

    def encode(self, prompts: Sequence[str]) -> Condition:
        return self._backbone.encode(prompts)

    def to_images(self, x_1: Tensor) -> Tensor:
        return self._backbone.to_images(x_1)

    def from_images(self, images: Tensor) -> Tensor | None:
        return self._backbone.from_images(images)

    def to(self, device: torch.device) -> Self:
        self._backbone.to(device)
        return self

    def warm_up(
        self, prompt: str, device: torch.device, autocast: Callable[[], AbstractContextManager[object]]
    ) -> None:
        """Compile now all that a run will need: policy and reference without gradients, the policy with.

        Args:
            prompt: Any that a run may have.
            device: Where the backbone is.
            autocast: The run's precision.

        Raises:
            UserError: There is no compiler.
        """
        if device.type == "cpu" and not any(map(shutil.which, (os.environ.get("CXX", ""), "g++", "clang++"))):
            raise UserError("on the CPU this needs a C++ compiler, and there is neither g++ nor clang++")
        condition = self.encode([prompt] * self._rows())
        x = torch.zeros((self._rows(), *self.sample_shape), device=device)
        t = torch.zeros(len(x), device=device)
        with torch.no_grad(), autocast():
            self._policy.velocity(t, x, condition)
            self._reference.velocity(t, x, condition)
        with autocast():
            v = self._policy.velocity(t, x, condition).float()
        v.sum().backward()
        for parameter in self._policy.parameters().values():
            parameter.grad = None
