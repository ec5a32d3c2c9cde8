"""The reward keeps to the contract, with the prompt's classes and with fixed ones."""

from __future__ import annotations

from orwcfm_core.testing import RewardTests


class TestClassProbability(RewardTests):
    name = "class-probability"


class TestDigits(RewardTests):
    name = "class-probability"
    options = {"model": "mnist", "labels": "even digits"}
