"""Checks of a callback: it is told of runs that are made up."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from safetensors.torch import save_file

from orwcfm_core.config import AdvantageConfig, FixedStepConfig, JudgeConfig, OrwCfmConfig, RegConfig, TermConfig
from orwcfm_core.errors import UserError
from orwcfm_core.events import Callbacks, Run
from orwcfm_core.testing.subject import Subject
from orwcfm_core.testing.tools import Skip, random_state_kept
from orwcfm_core.testing.trainers import METRICS

__all__ = ["CHECKS", "events", "failed_run", "random_state", "resumed_run", "whole_run"]

_REFERENCE = {"samples": 8, "reward_mean": 0.1, "reward_std": 0.3, "diversity": 0.9, "heldout_judge": 0.2}
_SMALL = OrwCfmConfig(rounds=2, samples=8, device="cpu", checkpoint_every=1)
_CONFIG: dict[str, dict[str, Any]] = {
    "backbone": {"name": "toy"},
    "reward": {"name": "toy", "prompt": ["a red boat"], **TermConfig().model_dump(exclude_none=True)},
    "heldout": {"name": "judge", **JudgeConfig().model_dump(exclude_none=True)},
    "reg": {"name": "w2", "alpha": 0.1, **RegConfig().model_dump(exclude_none=True)},
    "weighting": {"name": "advantage", **AdvantageConfig().model_dump(exclude_none=True)},
    "sampler": {"name": "adams", **FixedStepConfig().model_dump(exclude_none=True)},
    "train": {"name": "orw-cfm", **_SMALL.model_dump(exclude_none=True)},
    "callback": {"name": "toy"},
}
"""As in run.toml."""
_METRICS = dict.fromkeys(METRICS, 0.5) | {"invalid": 0, "skipped": 0, "nfe": 40, "heldout_judge": 0.2}
_FILES = {name: {"weight": torch.zeros(2)} for name in ("policy", "sampling", "training")}


def events(subject: Subject) -> None:
    """It implements at least one event, with arguments that the event has."""
    Callbacks({subject.plugin.name: subject.component})


def whole_run(subject: Subject) -> None:
    """It lives through a run: start, two rounds of which one has a metric that is None, a checkpoint, end."""
    with _told(subject) as (callbacks, folder):
        _tell(callbacks, folder, _metrics(1), _metrics(2) | {"reward_mean": None, "heldout_judge": None})


def failed_run(subject: Subject) -> None:
    """It lives through a run that fails before its first round."""
    with _told(subject) as (callbacks, folder):
        run = Run(folder, _CONFIG)
        callbacks.run_start(run, _REFERENCE)
        callbacks.run_end(run, "failed", {})


def resumed_run(subject: Subject) -> None:
    """A new instance goes on with a run that was interrupted, in the same folder."""
    with _told(subject) as (callbacks, folder):
        for round_, status in ((1, "interrupted"), (2, "done")):
            run = Run(folder, _CONFIG, first_round=round_ - 1)
            callbacks.run_start(run, _REFERENCE)
            callbacks.round_end(run, _metrics(round_))
            _checkpoint(callbacks, run, round_)
            callbacks.run_end(run, status, _REFERENCE if status == "done" else {})
            callbacks = Callbacks({subject.plugin.name: subject.build()})


def random_state(subject: Subject) -> None:
    """Being told of a run leaves the global random states alone."""
    with _told(subject) as (callbacks, folder), random_state_kept("a callback must not change what the run computes"):
        _tell(callbacks, folder, _metrics(1), _metrics(2))


@contextmanager
def _told(subject: Subject) -> Iterator[tuple[Callbacks, Path]]:
    """A fresh instance that can be told of events, and the folder of its run."""
    try:
        callbacks = Callbacks({subject.plugin.name: subject.build()})
    except UserError as e:
        raise Skip("its events could not be registered") from e
    with TemporaryDirectory() as folder:
        # Of the values that are in it, TOML and JSON are written alike.
        lines = [
            line
            for section, table in _CONFIG.items()
            for line in (f"[{section}]", *(f"{option} = {json.dumps(value)}" for option, value in table.items()))
        ]
        (Path(folder) / "run.toml").write_text("\n".join(lines))
        (Path(folder) / "reference.json").write_text(json.dumps(_REFERENCE))
        yield callbacks, Path(folder)


def _tell(callbacks: Callbacks, folder: Path, *rounds: Mapping[str, Any]) -> None:
    """Tell of a run from its start to its end."""
    run = Run(folder, _CONFIG)
    callbacks.run_start(run, _REFERENCE)
    for metrics in rounds:
        callbacks.round_end(run, metrics)
    _checkpoint(callbacks, run, len(rounds))
    callbacks.run_end(run, "done", _REFERENCE | {"reward_mean": 0.4})


def _metrics(round_: int) -> dict[str, Any]:
    return {**_METRICS, "round": round_, "reward_mean": 0.1 * round_}


def _checkpoint(callbacks: Callbacks, run: Run, round_: int) -> None:
    checkpoint = run.path / "checkpoints" / f"round_{round_:04d}"
    checkpoint.mkdir(parents=True)
    for name, tensors in _FILES.items():
        save_file(tensors, checkpoint / f"{name}.safetensors")
    for name in ("state.json", "manifest.json"):
        (checkpoint / name).write_text(json.dumps({"round": round_}))
    callbacks.checkpoint(run, checkpoint)


CHECKS: Sequence[Callable[[Subject], None]] = (events, whole_run, failed_run, resumed_run, random_state)
"""In the order in which they run."""
