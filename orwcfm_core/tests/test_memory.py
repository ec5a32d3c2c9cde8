"""What must fit into memory at once."""

from __future__ import annotations

import pytest
import torch
from orwcfm_core.config import TrainConfig
from orwcfm_core.errors import RunError
from orwcfm_core.memory import check_room


@pytest.mark.parametrize(("passes", "kept"), [(1, 1), (2, 3)])
def test_what_a_round_holds_counts_for_each_sample_draw_and_batch(
    monkeypatch: pytest.MonkeyPatch, passes: int, kept: int
) -> None:
    train = TrainConfig(samples=10, draws=2, updates=5, passes=passes, eval_samples=2)
    # 10 samples of 4 numbers, images of 3 and conditions of 1000 bytes. Two draws: the sample and noise, and in each
    # batch that is kept point, three velocities and the condition.
    needed = 10 * (4 * (4 + 3) + 1000 + 2 * (4 * (2 + 4 * kept) * 4 + kept * 1000))
    monkeypatch.setattr("orwcfm_core.memory._free", lambda device: needed)
    check_room(train, 4, 3, 1000, torch.device("cpu"))
    monkeypatch.setattr("orwcfm_core.memory._free", lambda device: needed - 1)
    with pytest.raises(RunError, match=r"samples of a round take .*; lower train\.samples or train\.draws") as error:
        check_room(train, 4, 3, 1000, torch.device("cpu"))
    assert ("train.passes=1" in str(error.value)) == (kept > 1)
