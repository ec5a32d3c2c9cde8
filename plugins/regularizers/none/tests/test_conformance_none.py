"""The regularizer keeps to the contract."""

from __future__ import annotations

from orwcfm_core.testing import RegularizerTests
from torch import Tensor


class TestNone(RegularizerTests):
    name = "none"

    def closed_form(self, delta: Tensor, t: Tensor) -> Tensor:
        return 0 * t
