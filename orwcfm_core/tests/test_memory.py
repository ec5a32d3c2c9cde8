"""What must fit into memory at once."""

from __future__ import annotations

import pytest
import torch
from orwcfm_core.errors import RunError
from orwcfm_core.memory import check_room


def test_conditions_count_once_for_each_sample_and_draw(monkeypatch: pytest.MonkeyPatch) -> None:
    # 10 samples of 4 numbers and images of 3, two draws: 10 (4 (4 + 3 + 4 x 2 x 4) + 3 x 1000) bytes.
    needed = 10 * (4 * (4 + 3 + 4 * 2 * 4) + 3 * 1000)
    monkeypatch.setattr("orwcfm_core.memory._free", lambda device: needed)
    check_room(10, 2, 1, 4, 3, 1000, torch.device("cpu"))
    monkeypatch.setattr("orwcfm_core.memory._free", lambda device: needed - 1)
    with pytest.raises(RunError, match=r"the samples of a round take .*; lower train\.samples or train\.draws"):
        check_room(10, 2, 1, 4, 3, 1000, torch.device("cpu"))
