"""The regularizer keeps to the contract."""

from __future__ import annotations

from orwcfm_core.testing import RegularizerTests
from torch import Tensor


class TestAdaptiveW2(RegularizerTests):
    name = "adaptive-w2"

    def closed_form(self, delta: Tensor, t: Tensor) -> Tensor:
        # The weights are 1, of which half the strength is left.
        return 0.5 * (delta @ delta) / len(delta)
