"""The trainers keep to the contract."""

from __future__ import annotations

from orwcfm_core.testing import TrainerTests


class TestRwr(TrainerTests):
    name = "rwr"
    options = {"data_samples": 256, "watch": 16}


class TestReft(TrainerTests):
    name = "reft"
    options = {"data_samples": 256, "watch": 16}


class TestRaft(TrainerTests):
    name = "raft"
