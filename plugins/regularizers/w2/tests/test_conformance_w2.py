"""The regularizer keeps to the contract."""

from __future__ import annotations

from orwcfm_core.testing import RegularizerTests
from torch import Tensor


class TestW2(RegularizerTests):
    name = "w2"

    def closed_form(self, delta: Tensor, t: Tensor) -> Tensor:
        # Moved by another constant velocity for a time of 1, the means end |delta| apart: W_2^2 per dimension.
        return delta @ delta / len(delta)
