"""Rewards that fail now and then, or for good: each policy does what it says, and nobody scores 0 by accident."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from commandline import POINTS, Done, here, rounds
from orwcfm_core.checkpoint import newest_checkpoint
from orwcfm_core.testing import FakeDistribution
from safetensors.torch import load_file

PLUGIN = """
from typing import Literal
from orwcfm_core.plugin import ComponentConfig, RewardSpec, hookimpl
from pydantic import Field

class Config(ComponentConfig):
    mode: str = Field("fine", description="How it fails.")
    every: int = Field(1, description="Every how many calls.")
    after: int = Field(0, description="Calls that it always answers.")

@hookimpl
def orwcfm_rewards():
    names = ("moody", "judge")
    return [RewardSpec(name=n, summary="Fails.", config=Config, factory="moody_reward:Moody") for n in names]
"""
REWARD = """
import os
import torch
from orwcfm_core.reward import Reward, Scores

class Moody(Reward):
    def __init__(self, config):
        self.config, self.calls = config, 0

    def score(self, images, prompts):
        self.calls += 1
        r = torch.linspace(4, 6, len(images))
        if self.calls <= self.config.after or self.calls % self.config.every:
            return Scores(r)
        match self.config.mode:
            case "raise": raise ValueError("no\\nluck")
            case "exit": raise SystemExit(3)
            case "die": os._exit(3)
            case "short": return Scores(r[1:])
            case "list": return [5.0] * len(images)
            case "mask": return Scores(r, torch.ones(len(r)))
            case "nan": r[:5] = torch.nan
            case "inf": r[3:8] = -torch.inf
            case "double": return Scores(r.double() * 1e300)
            case "refuse": return Scores(torch.where(r < 5, torch.nan, r), r >= 5)
        return Scores(r)
"""
WHOLE = ("raise", "exit", "short", "list", "mask", "double")
"""Ways to fail with a whole batch; `nan` and `inf` fail with 5 samples of 32."""
SAID = {
    "raise": "ValueError: no luck",
    "exit": "SystemExit: 3",
    "short": "returned shape (31,), expected one score per image, shape (32,)",
    "list": "returned a list, expected one score per image",
    "mask": "returned a mask of shape (32,) torch.float32",
    "double": "returned NaN or infinity for 32 of 32 images",
    "nan": "returned NaN or infinity for 5 of 32 images",
    "inf": "returned NaN or infinity for 5 of 32 images",
}
MODES = (*WHOLE, "nan", "inf")


@pytest.fixture(autouse=True)
def moody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeDistribution]:
    """A reward that scores 4 to 6, 5 on average, and fails as it is told."""
    monkeypatch.chdir(tmp_path)
    entries = {"reward": {"moody": "moody_plugin", "judge": "moody_plugin"}}
    modules = {"moody_plugin.py": PLUGIN, "moody_reward.py": REWARD}
    with FakeDistribution(tmp_path / "site", "moody", entries, modules) as made:
        yield made


def run(mode: str, on_error: str, *args: object, every: int = 3, number: int = 6, code: int = 0) -> Done:
    """Call 1 is for the reference, and calls 2 to 7 are for rounds 1 to 6: with `every=3`, rounds 2 and 5 fail."""
    options = [f"reward.mode={mode}", f"reward.every={every}", f"reward.on_error={on_error}"]
    settings = [part for option in options for part in ("--set", option)]
    return here(*POINTS, "--reward", "moody", *settings, "--rounds", number, "--out", "run", *args, code=code)


@pytest.mark.parametrize("mode", MODES)
def test_fail_ends_the_run_with_the_name_of_the_reward(mode):
    done = run(mode, "fail", code=1)
    assert len(done.errors) == 1
    assert f"reward 'moody': {SAID[mode]}" in done.errors[0]
    assert [row["round"] for row in rounds(Path("run"))] == [1]
    assert newest_checkpoint(Path("run/checkpoints")).name == "round_0000"


@pytest.mark.parametrize("mode", MODES)
def test_drop_leaves_out_what_failed_and_counts_it(mode):
    done = run(mode, "drop")
    rows = rounds(Path("run"))
    bad = 32 if mode in WHOLE else 5
    assert [row["invalid"] for row in rows] == [0, bad, 0, 0, bad, 0]
    assert [row["skipped"] for row in rows] == [0, 4 if bad == 32 else 0, 0, 0, 4 if bad == 32 else 0, 0]
    # Of what is left, and where nothing is left no mean at all: never 0.
    left = {"nan": range(5, 32), "inf": [0, 1, 2, *range(8, 32)]}.get(mode, [])
    r = [4 + 2 * i / 31 for i in range(32)]
    expected = sum(r[i] for i in left) / len(left) if left else None
    for row, mean in zip(rows, [5, expected, 5, 5, expected, 5], strict=True):
        assert row["reward_mean"] == (None if mean is None else pytest.approx(mean))
    assert f"warning: reward 'moody': {SAID[mode]}" in done.err
    assert "they are left out" in done.err
    assert ("round 2: updates are skipped: no sample has a valid score" in done.err) == (bad == 32)


@pytest.mark.parametrize("mode", MODES)
def test_penalise_gives_what_failed_its_score(mode):
    done = run(mode, "penalise(-1)")
    rows = rounds(Path("run"))
    assert [row["invalid"] for row in rows] == [0] * 6
    bad = {"nan": range(5), "inf": range(3, 8)}.get(mode, range(32))
    expected = sum(-1 if i in bad else 4 + 2 * i / 31 for i in range(32)) / 32
    assert [row["reward_mean"] for row in rows] == [pytest.approx(m) for m in (5, expected, 5, 5, expected, 5)]
    assert "they score -1" in done.err


@pytest.mark.parametrize("mode", MODES)
def test_retry_asks_again_and_then_fails(mode):
    done = run(mode, "retry(2)", "--rounds", 3)
    rows = rounds(Path("run"))
    assert [(row["invalid"], row["reward_mean"]) for row in rows] == [(0, pytest.approx(5))] * 3
    assert "trying again" in done.err
    # Three in a row are one too many.
    done = run(mode, "retry(2)", "--out", "other", every=1, code=1)
    said = re.sub(r"\b3([12])\b", lambda found: "63" if found[1] == "1" else "64", SAID[mode])
    assert done.errors[0].startswith(f"error: reward 'moody': {said}")
    assert done.err.count("trying again") == 2


def test_what_a_reward_refuses_itself_is_invalid_whatever_on_error_says():
    for on_error in ("fail", "drop", "penalise(-9)"):
        run("refuse", on_error, "--out", on_error[:4], every=1, number=1)
        row = rounds(Path(on_error[:4]))[0]
        assert row["invalid"] == 16
        assert row["reward_mean"] == pytest.approx(sum(4 + 2 * i / 31 for i in range(16, 32)) / 16)


def test_too_many_rounds_without_a_score_end_the_run_and_leave_the_inputs():
    done = run("raise", "drop", "--set", "reward.after=3", "--set", "train.max_skipped=8", every=1, code=1)
    rows = rounds(Path("run"))
    # Rounds 1 and 2 are scored, round 3 skips its 4 updates, round 4 the next 4.
    assert [row["skipped"] for row in rows] == [0, 0, 4]
    assert done.errors == [
        "error: round 4: 8 updates in a row were skipped (train.max_skipped): no sample has a valid score"
    ]
    assert "what the last update was to work on is in run/failed/round_0004.safetensors" in done.err
    assert load_file("run/failed/round_0004.safetensors")["x_1"].shape == (32, 2)
    assert newest_checkpoint(Path("run/checkpoints")).name == "round_0000"


def test_a_round_that_is_skipped_changes_no_weight():
    run("raise", "drop", "--set", "train.checkpoint_every=1", "--set", "train.keep=9", every=3, number=2)
    one, two = (load_file(f"run/checkpoints/round_000{n}/sampling.safetensors") for n in (1, 2))
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_a_reward_that_never_answers_says_so_before_long():
    done = run("raise", "drop", every=1, number=60, code=1)
    assert "20 updates in a row were skipped" in done.errors[0]
    assert done.err.count("updates are skipped") == 1
    assert {row["reward_mean"] for row in rounds(Path("run"))} == {None}
    assert json.loads(Path("run/reference.json").read_text())["reward_mean"] is None


@pytest.mark.parametrize("mode", ["raise", "nan"])
def test_a_judge_may_fail_as_well(mode):
    judge = ("--eval-reward", "judge", "--set", f"heldout.mode={mode}", "--set", "heldout.every=3")
    assert "reward 'judge'" in run("fine", "fail", *judge, code=1).errors[0]
    run("fine", "fail", *judge, "--set", "heldout.on_error=drop", "--out", "other")
    rows = rounds(Path("other"))
    assert [row["heldout_judge"] is None for row in rows] == [mode == "raise" and n in (2, 5) for n in range(1, 7)]
    assert all(row["invalid"] == row["skipped"] == 0 for row in rows)


def test_one_of_several_rewards_fails():
    options = ("--set", "reward.moody.mode=raise", "--set", "reward.moody.every=3", "--set", "reward.on_error=drop")
    here(*POINTS, "--reward", "moody", "--reward", "judge", *options, "--rounds", 3, "--out", "run", code=0)
    rows = rounds(Path("run"))
    # What one reward cannot score has no combined score either.
    assert [row["invalid"] for row in rows] == [0, 32, 0]
    assert [row["reward_mean"] for row in rows] == [pytest.approx(10), None, pytest.approx(10)]


@pytest.mark.parametrize("mode", ["raise", "die"])
def test_a_reward_in_another_process_fails(moody, monkeypatch, mode):
    monkeypatch.setenv("PYTHONPATH", moody.env()["PYTHONPATH"])
    options = ("--set", "reward.after=1", "--set", f"reward.mode={mode}", "--set", "reward.on_error=drop")
    asked = f"moody@{sys.prefix}"
    done = here(*POINTS, "--reward", asked, *options, "--rounds", 2, "--set", "reward.every=3", "--out", "run", code=0)
    # One that dies is started anew, and then has not been called yet: its third call is never the same one.
    expected = [0, 32] if mode == "raise" else [0, 0]
    assert [row["invalid"] for row in rounds(Path("run"))] == expected
    assert ("no luck" if mode == "raise" else "is started anew") in done.err


@pytest.mark.slow
def test_a_process_that_dies_each_time_scores_nothing(moody, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", moody.env()["PYTHONPATH"])
    options = ("--set", "reward.mode=die", "--set", "reward.on_error=drop", "--set", "train.eval_samples=8")
    done = here(*POINTS, "--reward", f"moody@{sys.prefix}", *options, "--rounds", 1, "--out", "run", code=0)
    assert [(row["invalid"], row["reward_mean"]) for row in rounds(Path("run"))] == [(32, None)]
    assert "they are left out" in done.err


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("ignore", "fail, drop (leave out), retry(N) or penalise(SCORE), got 'ignore'"),
        ("retry", "reward.on_error: "),
        ("retry(-1)", "reward.on_error: "),
        ("penalise(nan)", "reward.on_error: "),
        ("penalise(1e99)", "expected a score between -1e30 and 1e30"),
    ],
)
def test_a_policy_that_is_none_is_refused(text, said):
    done = run("fine", text, code=2)
    assert len(done.errors) == 1
    assert said in done.errors[0]
