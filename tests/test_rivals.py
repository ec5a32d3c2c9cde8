"""The rivals in benchmarks/: their settings, and how costs are compared."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest
import torch

sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))
rivals = importlib.import_module("rivals")


def test_flow_grpo_costs_what_the_authors_code_does() -> None:
    method = rivals.flow_grpo(lr=3e-4, clip=1e-4)
    train = {**method.tables["train"], "samples": 8}
    trainer, state = rivals.Method(method.title, {"train": train}).start(0)
    metrics = trainer.round(state)
    # 10 steps of 8 paths, then policy, reference and sampling policy at 5 steps of each path, twice.
    assert metrics["nfe"] == 8 * 10 + 2 * 3 * 8 * 5
    assert metrics["lr"] == pytest.approx(3e-4)
    # The next round samples from what was trained: a hard copy.
    assert all(torch.equal(a, b) for a, b in zip(state.ema.average, state.ema.parameters, strict=True))


def test_published_settings_are_those_of_the_authors_code() -> None:
    trainer, state = rivals.published(tau=0.5, alpha=1, lr=2e-4).start(3)
    assert (len(state.components.sampler.times), state.ema.decay, state.precision) == (101, 0, "fp32")
    assert (trainer.config.updates, trainer.config.samples, trainer.config.seed) == (1, 128, 3)
    assert trainer.config.coupling == "independent"


def point(evaluations: int, processor: float) -> rivals.Point:
    return rivals.Point(rounds=1, evaluations=evaluations, processor=processor, judge=0.9, diversity=0.8)


@pytest.mark.parametrize(
    ("reached", "times", "verdict"),
    [
        (True, 12, "holds; 12.0"),
        (True, 2, "does not hold; 2.0"),
        (False, 12, "holds; more than 12.0"),
        (False, 2, "not decided"),
    ],
)
def test_verdicts_say_what_was_measured(reached: bool, times: int, verdict: str) -> None:
    here, there = point(100, 10), point(100 * times, 10 * times)
    outcomes = {
        ("default", 0): rivals.Outcome({0.9: here}, here),
        ("published", 0): rivals.Outcome({0.9: there} if reached else {}, there),
    }
    evaluations, processor, diversity = rivals.verdicts("published", outcomes, 0.9)
    assert verdict in evaluations
    assert verdict in processor
    assert "0.80 at a judge of 0.90 against 0.80" in diversity
    assert ("not within" in rivals.row("published", 0, outcomes, 0.9)[-1]) is not reached
