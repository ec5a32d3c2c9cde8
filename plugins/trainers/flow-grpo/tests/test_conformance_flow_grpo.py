"""The trainer keeps to the contract."""

from __future__ import annotations

from orwcfm_core.testing import TrainerTests


class TestFlowGrpo(TrainerTests):
    name = "flow-grpo"
    # The loss falls by no more than the clip lets it.
    options = {"clip_range": 0.5}
