"""The backbone keeps to the contract, with prompts and without."""

from __future__ import annotations

from orwcfm_core.testing import BackboneTests


class TestUnconditional(BackboneTests):
    name = "unet"


class TestConditional(BackboneTests):
    name = "unet"
    options = {"conditional": True}


class TestGuided(BackboneTests):
    name = "unet"
    options = {"conditional": True, "guidance": 3}
