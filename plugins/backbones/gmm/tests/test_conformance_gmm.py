"""The backbone and its reward keep to the contract."""

from __future__ import annotations

from orwcfm_core.testing import BackboneTests, RewardTests


class TestGmm(BackboneTests):
    name = "gmm"


class TestLine(BackboneTests):
    name = "gmm"
    options = {"dim": 1, "components": 3}


class TestComponent(RewardTests):
    name = "component"
