"""Checkpoints are ordered by their round, and hold everything."""

from typing import Any

import pytest
import torch
from orwcfm_core.checkpoint import load_checkpoint, newest_checkpoint, save_checkpoint
from orwcfm_core.errors import UserError


def test_the_newest_has_the_largest_round_whatever_its_digits(lab: Any, tmp_path: Any) -> None:
    _, state = lab.start()
    for state.round in (9998, 9999, 10000, 10001):
        assert save_checkpoint(state, tmp_path, keep=2).exists()
    assert newest_checkpoint(tmp_path).name == "round_10001"
    assert {path.name for path in tmp_path.iterdir()} == {"round_10000", "round_10001"}


def test_a_loaded_state_goes_on_as_the_saved_one(lab: Any, tmp_path: Any) -> None:
    trainer, state = lab.start(rounds=10)
    trainer.round(state)
    saved = save_checkpoint(state, tmp_path, keep=1)
    expected = [trainer.round(state)["loss"] for _ in range(2)]
    other, fresh = lab.start(rounds=10)
    load_checkpoint(fresh, saved)
    assert [other.round(fresh)["loss"] for _ in range(2)] == expected
    assert all(torch.equal(a, b) for a, b in zip(state.ema.average, fresh.ema.average, strict=True))


def test_a_checkpoint_of_another_device_is_refused(lab: Any, tmp_path: Any) -> None:
    trainer, state = lab.start()
    trainer.round(state)
    saved = save_checkpoint(state, tmp_path, keep=1)
    state.precision = "another"
    with pytest.raises(UserError, match="was computed on cpu"):
        load_checkpoint(state, saved)
