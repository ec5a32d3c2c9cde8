"""Both rewards keep to the contract."""

from __future__ import annotations

from orwcfm_core.testing import RewardTests


class TestCompressibility(RewardTests):
    name = "jpeg-compressibility"


class TestIncompressibility(RewardTests):
    name = "jpeg-incompressibility"
    options = {"quality": 50}
