"""Checkpoints are ordered by their round, and hold everything."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from orwcfm_core.checkpoint import (
    best_checkpoint,
    best_round,
    forget_after,
    load_checkpoint,
    load_sampling_policy,
    newest_checkpoint,
    save_checkpoint,
)
from orwcfm_core.errors import RunError, UserError


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


def test_a_micro_batch_that_memory_ran_out_for_stays_lower(lab: Any, tmp_path: Path) -> None:
    _, state = lab.start(micro_batch=64)
    state.micro_batch = 16
    checkpoint = save_checkpoint(state, tmp_path, keep=1)
    _, other = lab.start(micro_batch=64)
    load_checkpoint(other, checkpoint)
    assert other.micro_batch == 16


def test_a_checkpoint_of_another_device_is_refused(lab: Any, tmp_path: Any) -> None:
    trainer, state = lab.start()
    trainer.round(state)
    saved = save_checkpoint(state, tmp_path, keep=1)
    state.precision = "another"
    with pytest.raises(UserError, match="was computed on cpu"):
        load_checkpoint(state, saved)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def save(state: Any, folder: Path, number: int, quality: float | None, keep: int = 2) -> Path:
    state.round = number
    return save_checkpoint(state, folder, keep, quality)


def test_the_best_is_kept_beyond_the_newest(lab: Any, tmp_path: Path) -> None:
    _, state = lab.start()
    for number, quality in enumerate([None, 0.3, 0.9, 0.5, 0.9, 0.1, None, 0.2]):
        save(state, tmp_path, number, quality)
    # Of two that are equally good the older one: since then nothing was better.
    assert names(tmp_path) == ["round_0002", "round_0006", "round_0007"]
    assert best_checkpoint(tmp_path) == tmp_path / "round_0002"
    assert best_round(tmp_path) == 2


def test_without_any_quality_the_newest_are_kept(lab: Any, tmp_path: Path) -> None:
    _, state = lab.start()
    for number in range(5):
        save(state, tmp_path, number, None, keep=3)
    assert names(tmp_path) == ["round_0002", "round_0003", "round_0004"]
    assert best_checkpoint(tmp_path) is None
    assert best_round(tmp_path) is None


def test_a_damaged_one_is_never_the_best(lab: Any, tmp_path: Path) -> None:
    _, state = lab.start()
    for number, quality in [(1, 0.5), (2, 0.9), (3, 0.1)]:
        save(state, tmp_path, number, quality, keep=5)
    (tmp_path / "round_0002" / "policy.safetensors").write_bytes(b"")
    assert best_checkpoint(tmp_path) == tmp_path / "round_0001"
    # Whoever only reads removes nothing: what reading says may be another's fault.
    assert names(tmp_path) == ["round_0001", "round_0002", "round_0003"]


def test_want_of_memory_is_no_misfit(lab: Any, tmp_path: Path, monkeypatch: Any) -> None:
    _, state = lab.start()
    saved = save(state, tmp_path, 1, None)

    def full(*args: Any) -> None:
        raise torch.OutOfMemoryError("out of memory")

    monkeypatch.setattr("orwcfm_core.checkpoint.load_file", full)
    with pytest.raises(torch.OutOfMemoryError):
        load_checkpoint(state, saved)
    with pytest.raises(torch.OutOfMemoryError):
        load_sampling_policy(state.components.backbone.policy(), saved)


@pytest.mark.parametrize("quality", ["much", 10**400, float("nan"), True, [1], None])
def test_a_quality_that_is_no_number_is_none(lab: Any, tmp_path: Path, quality: Any) -> None:
    _, state = lab.start()
    for number in (1, 2):
        save(state, tmp_path, number, 0.1 * number, keep=5)
    manifest = tmp_path / "round_0001" / "manifest.json"
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"quality": quality}))
    assert best_checkpoint(tmp_path) == tmp_path / "round_0002"


def test_going_back_forgets_what_came_after(lab: Any, tmp_path: Path) -> None:
    _, state = lab.start()
    for number in range(1, 6):
        save(state, tmp_path, number, None, keep=9)
    forget_after(tmp_path, tmp_path / "round_0003")
    assert newest_checkpoint(tmp_path) == tmp_path / "round_0003"
    assert names(tmp_path) == ["round_0001", "round_0002", "round_0003"]
    # And so does saving an older round, as after newer ones were damaged.
    save(state, tmp_path, 2, None, keep=1)
    assert names(tmp_path) == ["round_0002"]


def test_saving_again_only_changes_the_quality(lab: Any, tmp_path: Path) -> None:
    _, state = lab.start()
    saved = save(state, tmp_path, 1, None)
    before = {path.name: (path.stat().st_ino, path.read_bytes()) for path in saved.iterdir()}
    save(state, tmp_path, 1, 0.7)
    after = {path.name: (path.stat().st_ino, path.read_bytes()) for path in saved.iterdir()}
    assert {name for name in before if before[name] != after[name]} == {"manifest.json"}
    assert best_round(tmp_path) == 1


def test_no_room_is_said_before_anything_is_written(lab: Any, tmp_path: Path, monkeypatch: Any) -> None:
    _, state = lab.start()
    save(state, tmp_path, 1, None)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**9, 10**9 - 10, 10))
    with pytest.raises(RunError, match=r"round_0002: .*MiB are needed, and 0.0 MiB are free"):
        save(state, tmp_path, 2, None)
    assert names(tmp_path) == ["round_0001"]


def test_a_checkpoint_of_another_model_is_refused(lab: Any, tmp_path: Path) -> None:
    _, state = lab.start(dim=2)
    saved = save(state, tmp_path, 1, None)
    for other in (lab.start(dim=3)[1], lab.start(constant=True)[1]):
        with pytest.raises(UserError, match="is not a checkpoint of this model"):
            load_checkpoint(other, saved)
        with pytest.raises(UserError, match="is not a checkpoint of this model"):
            load_sampling_policy(other.components.backbone.policy(), saved)


@pytest.mark.parametrize("about", ["[]", "{}", "null", "1", '{"computed": 1}', '{"computed": "cpu, fp32", "round": 1}'])
def test_a_state_that_is_none_is_refused(lab: Any, tmp_path: Path, about: str) -> None:
    _, state = lab.start()
    saved = save(state, tmp_path, 1, None)
    (saved / "state.json").write_text(about)
    with pytest.raises(UserError, match="round_0001"):
        load_checkpoint(lab.start()[1], saved)


def test_the_count_of_skipped_updates_survives(lab: Any, tmp_path: Path) -> None:
    _, state = lab.start()
    state.skipped = 7
    saved = save(state, tmp_path, 3, None)
    _, fresh = lab.start()
    load_checkpoint(fresh, saved)
    assert (fresh.round, fresh.skipped) == (3, 7)
