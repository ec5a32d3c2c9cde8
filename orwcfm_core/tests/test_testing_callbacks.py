"""Each check of a callback fails the callbacks that it is for, and those alone."""

from __future__ import annotations

import random
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from orwcfm_core.events import Run
from orwcfm_core.plugin import CallbackSpec, ComponentConfig, hookimpl
from safetensors.torch import load_file

SPEC = CallbackSpec(name="toy", summary="A toy.", config=ComponentConfig, factory="x:Y")


class Diary:
    """Writes everything down."""

    @hookimpl
    def orwcfm_on_run_start(self, run: Run, reference: Mapping[str, Any]) -> None:
        self.note(run, f"start {sorted(reference)}")

    @hookimpl
    def orwcfm_on_round_end(self, run: Run, metrics: Mapping[str, Any]) -> None:
        self.note(run, f"round {metrics['round']} {metrics['reward_mean']}")

    @hookimpl
    def orwcfm_on_checkpoint(self, run: Run, checkpoint: Path) -> None:
        self.note(run, f"checkpoint {len(list(checkpoint.iterdir()))}")

    @hookimpl
    def orwcfm_on_run_end(self, run: Run, status: str, result: Mapping[str, Any]) -> None:
        self.note(run, f"end {status}")

    def note(self, run: Run, line: str) -> None:
        with (run.path / "diary.txt").open("a") as file:
            file.write(f"{line}\n")


class EndAlone:
    @hookimpl
    def orwcfm_on_run_end(self, status: str) -> None:
        assert status in ("done", "interrupted", "failed")


class Nothing:
    pass


class Misspelt:
    @hookimpl
    def orwcfm_on_round_ends(self, metrics: Mapping[str, Any]) -> None:
        pass


class WrongArgument:
    @hookimpl
    def orwcfm_on_round_end(self, measurements: Mapping[str, Any]) -> None:
        pass


class NumbersAlone:
    """Takes every metric for a number."""

    @hookimpl
    def orwcfm_on_round_end(self, metrics: Mapping[str, Any]) -> None:
        float(metrics["heldout_judge"])


class NeedsRounds:
    @hookimpl
    def orwcfm_on_round_end(self, metrics: Mapping[str, Any]) -> None:
        self.last = metrics

    @hookimpl
    def orwcfm_on_run_end(self, status: str) -> None:
        print(self.last)


class OneRun:
    """Wants a folder that is not there yet."""

    @hookimpl
    def orwcfm_on_run_start(self, run: Run) -> None:
        (run.path / "logs").mkdir()


class ReadsAll:
    """Looks at what docs/metrics.md and docs/run-folder.md promise."""

    @hookimpl
    def orwcfm_on_run_start(self, run: Run) -> None:
        sections = tomllib.loads((run.path / "run.toml").read_text())
        assert sections["train"]["seed"] == run.config["train"]["seed"]
        assert {"reg", "weighting", "sampler", "heldout", "callback"} <= sections.keys()

    @hookimpl
    def orwcfm_on_round_end(self, metrics: Mapping[str, Any]) -> None:
        assert {"diversity", "ess", "seconds", "samples_per_second", "skipped"} <= metrics.keys()

    @hookimpl
    def orwcfm_on_checkpoint(self, checkpoint: Path) -> None:
        assert load_file(checkpoint / "sampling.safetensors")


class Draws:
    @hookimpl
    def orwcfm_on_round_end(self, metrics: Mapping[str, Any]) -> None:
        random.random()


@pytest.mark.parametrize(
    ("callback", "fails"),
    [
        (Diary, []),
        (EndAlone, []),
        (Nothing, ["events"]),
        (Misspelt, ["events"]),
        (WrongArgument, ["events"]),
        (NumbersAlone, ["whole_run"]),
        (NeedsRounds, ["failed_run"]),
        (OneRun, ["resumed_run"]),
        (ReadsAll, []),
        (Draws, ["random_state"]),
    ],
)
def test_a_wrong_callback_fails_its_check(callback: type, fails: list[str], failures: Any) -> None:
    assert list(failures("callback", SPEC, lambda config: callback())) == fails
