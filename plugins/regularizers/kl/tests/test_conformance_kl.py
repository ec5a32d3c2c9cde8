"""The regularizer keeps to the contract."""

from __future__ import annotations

from orwcfm_core.testing import RegularizerTests
from torch import Tensor


class TestKl(RegularizerTests):
    name = "kl"
    options = {"noise": 0.5, "t_max": 0.9}

    def closed_form(self, delta: Tensor, t: Tensor) -> Tensor:
        # Girsanov: |difference of the drifts|^2 / (2 sigma^2). The score moves with the velocity by t / (1-t) delta.
        t = t.clamp(1e-9, 0.9)
        variance = 0.5**2 * (1 - t) / t
        drift = delta + variance[:, None] / 2 * (t / (1 - t))[:, None] * delta
        return drift.square().mean(1) / (2 * variance)
