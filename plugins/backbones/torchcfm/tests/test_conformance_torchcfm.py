"""The backbone keeps to the contract."""

from __future__ import annotations

import pytest
from orwcfm_core.testing import BackboneTests


class TestContract(BackboneTests):
    name = "torchcfm"

    @pytest.fixture(autouse=True, scope="class")
    @classmethod
    def _weights(cls, folder):
        cls.options = {"weights": str(folder)}
