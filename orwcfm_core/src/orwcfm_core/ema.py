"""The sampling policy: an exponential moving average of the trained one, kept as parameters alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

__all__ = ["EMA"]


class EMA:
    """Exponential moving average of parameters, whose span may grow with the number k of updates.

        ema <- d_k ema + (1 - d_k) theta,   d_k = decay^(1 / (1 + growth k))

    It spans about -1 / log d_k updates: a number that grows from its first value by `growth` of it with each update.
    A span that grows in proportion to k averages more noise away the longer a run goes on, and follows fast at first.

    References:
        Analyzing and Improving the Training Dynamics of Diffusion Models (Karras et al., 2024), arXiv:2312.02696: spans
        that are a share of the training so far

    Args:
        parameters: The parameters to average, as the policy lists them.
        decay: Of the first update, in [0, 1); 0 is a hard copy, as in the paper.
        growth: Of the span, per update and relative to the first, at least 0; 0 is a constant decay.
    """

    def __init__(self, parameters: Sequence[Tensor], decay: float, growth: float = 0.0) -> None:
        self.parameters = list(parameters)
        self.average = [p.detach().clone() for p in parameters]
        self.decay = decay
        self.growth = growth

    @torch.no_grad()
    def update(self, done: int) -> None:
        """Move the average towards the parameters.

        Args:
            done: Updates before this one.
        """
        decay = self.decay ** (1 / (1 + self.growth * done))
        torch._foreach_lerp_(self.average, [p.detach() for p in self.parameters], 1 - decay)

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
