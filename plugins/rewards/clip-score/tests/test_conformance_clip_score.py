"""The reward keeps to the contract."""

from __future__ import annotations

from orwcfm_core.testing import RewardTests


class TestClipScore(RewardTests):
    name = "clip-score"
