"""The sampling policy: an exponential moving average of the trained one, kept as parameters alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

__all__ = ["EMA"]


class EMA:
    """Exponential moving average of parameters: `ema <- decay ema + (1 - decay) theta`.

    Args:
        parameters: The parameters to average, as the policy lists them.
        decay: In [0, 1); 0 is a hard copy, as in the paper.
    """

    def __init__(self, parameters: Sequence[Tensor], decay: float) -> None:
        self.parameters = list(parameters)
        self.average = [p.detach().clone() for p in parameters]
        self.decay = decay

    @torch.no_grad()
    def update(self) -> None:
        """Move the average towards the parameters."""
        torch._foreach_lerp_(self.average, [p.detach() for p in self.parameters], 1 - self.decay)

    @contextmanager
    def swapped(self) -> Iterator[None]:
        """Let the policy compute with the average; exchanges storage, so it copies nothing."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    def _swap(self) -> None:
        for i, p in enumerate(self.parameters):
            p.data, self.average[i] = self.average[i], p.data
