"""The trainers keep to the contract."""

from __future__ import annotations

from orwcfm_core.testing import TrainerTests


class TestAwm(TrainerTests):
    name = "awm"


class TestNft(TrainerTests):
    name = "nft"


class TestRvm(TrainerTests):
    name = "rvm"
