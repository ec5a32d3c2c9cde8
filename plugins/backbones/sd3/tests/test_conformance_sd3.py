"""The backbone keeps to the contract, with guidance and without."""

from __future__ import annotations

import pytest
from orwcfm_core.testing import BackboneTests

SMALL = {"resolution": 32, "rank": 2, "dtype": "fp32"}


class TestGuided(BackboneTests):
    name = "sd3"

    @pytest.fixture(autouse=True, scope="class")
    @classmethod
    def _model(cls, folder):
        cls.options = SMALL | {"model": str(folder)}


class TestUnguided(BackboneTests):
    name = "sd3"

    @pytest.fixture(autouse=True, scope="class")
    @classmethod
    def _model(cls, folder):
        cls.options = SMALL | {"model": str(folder), "guidance": 1, "t5": False}
