"""Checks of a trainer: rounds on the backbone `gmm` with the reward `component`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from orwcfm_core.backbone import Backbone
from orwcfm_core.checkpoint import load_checkpoint, save_checkpoint
from orwcfm_core.errors import UserError
from orwcfm_core.reward import Reward
from orwcfm_core.testing.fakes import SquaredDistance, start
from orwcfm_core.testing.subject import Subject
from orwcfm_core.testing.tools import Skip, expect
from orwcfm_core.trainer import State, Trainer
from orwcfm_core.weighting import Exp

__all__ = ["CHECKS", "METRICS", "advances_round", "deterministic", "lowers_loss", "metrics", "resumes"]

METRICS = (
    "round",
    "reward_mean",
    "reward_std",
    "velocity_divergence",
    "diversity",
    "ess",
    "loss",
    "penalty",
    "grad_norm",
    "lr",
    "invalid",
    "nfe",
    "samples_per_second",
    "seconds",
)
"""Keys that every round's metrics have (docs/metrics.md); there may be others."""

_ROUNDS = 50
_OPTIONS = {"device": "cpu", "precision": "fp32", "rounds": 4 * _ROUNDS, "samples": 128, "updates": 1, "lr": 0.01}


def lowers_loss(subject: Subject) -> None:
    """Training lowers the loss on the batch of the first round."""
    # The sampling policy is held at its start, so that a round with the first one's seed has the first one's samples,
    # noise and times. Its loss is measured before its update.
    trainer, state = _start(subject, ema=1 - 1e-9, warmup=0)
    before = _first_loss(trainer, state)
    for _ in range(_ROUNDS):
        trainer.round(state)
    after = _first_loss(trainer, state)
    expect(
        after < before - 0.01 * abs(before),
        f"the loss on the first round's batch went from {before:.6g} to {after:.6g} in {_ROUNDS} rounds: it must fall",
    )


def deterministic(subject: Subject) -> None:
    """The same seed gives the same metrics, another one others."""
    first, again, other = (_metrics(*_start(subject, seed=seed)) for seed in (3, 3, 4))
    changed = [key for key in first[1] if first[1][key] != again[1].get(key)]
    expect(not changed, f"the same seed gave another {', '.join(changed[:3])}: draw from state.generator")
    expect(first != other, "another seed gave the same metrics: seed state.generator with config.seed")


def resumes(subject: Subject) -> None:
    """A run that goes on from a checkpoint does the same as one that was not interrupted."""
    trainer, state = _start(subject, ema=0.5)
    trainer.round(state)
    with TemporaryDirectory() as folder, torch.random.fork_rng(devices=[]):
        checkpoint = save_checkpoint(state, Path(folder), keep=1)
        wanted = _metrics(trainer, state)
        fresh_trainer, fresh = _start(subject, ema=0.5)
        load_checkpoint(fresh, checkpoint)
        got = _metrics(fresh_trainer, fresh)
    pairs = ((i, key) for i, row in enumerate(wanted) for key in row if row[key] != got[i].get(key))
    row, key = next(pairs, (0, ""))
    expect(
        not key,
        f"round {row + 1} after resuming has {key} {got[row].get(key)!r}, expected {wanted[row].get(key)!r}: keep "
        "all that changes in the state",
    )
    same = all(torch.equal(p, q) for p, q in zip(state.ema.parameters, fresh.ema.parameters, strict=True))
    expect(same, "the parameters after resuming differ from those of a run that was not interrupted")


def metrics(subject: Subject) -> None:
    """A round returns the metrics of docs/metrics.md, as numbers."""
    trainer, state = _start(subject)
    found = trainer.round(state)
    missing = [key for key in METRICS if key not in found]
    expect(not missing, f"the metrics lack {', '.join(missing)} (docs/metrics.md)")
    strange = [key for key, value in found.items() if not isinstance(value, int | float | None)]
    expect(not strange, f"expected numbers or None in the metrics, got others in {', '.join(strange)}")


def advances_round(subject: Subject) -> None:
    """Each round counts itself in state.round."""
    trainer, state = _start(subject)
    for done in (1, 2):
        trainer.round(state)
        expect(state.round == done, f"expected state.round = {done} after round {done}, got {state.round}")


def _start(subject: Subject, ema: float = 0.0, **options: Any) -> tuple[Trainer, State]:
    """A fresh trainer and its first state."""
    backbone = _other(subject, "backbone", "gmm", Backbone)
    reward = _other(subject, "reward", "component", Reward)
    # What it is given it may need.
    trainer = subject.build(**{**_OPTIONS, **subject.given, **options})
    return trainer, start(trainer, reward, SquaredDistance(0.1), Exp(3.0), backbone, ema=ema)


def _first_loss(trainer: Trainer, state: State) -> float:
    """The loss of a round that draws what the first one drew."""
    state.generator.manual_seed(0)
    return float(trainer.round(state)["loss"])


def _other(subject: Subject, kind: str, name: str, base: type) -> Any:
    try:
        plugin = subject.registry.get(kind, name)
    except UserError as e:
        raise Skip(f"needs the {kind} '{name}': pip install orwcfm-backbone-gmm") from e
    return plugin.build(plugin.spec.config(), base)


def _metrics(trainer: Trainer, state: State, rounds: int = 2) -> list[dict[str, Any]]:
    """Metrics of the next rounds but for what a clock says."""
    timed = ("samples_per_second", "seconds")
    found = [trainer.round(state) for _ in range(rounds)]
    return [{key: value for key, value in row.items() if key not in timed} for row in found]


CHECKS: Sequence[Callable[[Subject], None]] = (lowers_loss, deterministic, resumes, metrics, advances_round)
"""In the order in which they run."""
