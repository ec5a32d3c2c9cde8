"""Strengths from round to round: their values, their mistakes, and what survives a resume."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from orwcfm_core.checkpoint import load_checkpoint, save_checkpoint
from orwcfm_core.config import AdvantageConfig, ExpConfig, RegConfig
from orwcfm_core.orw_cfm import OrwCfm
from orwcfm_core.regularizer import Anchor
from orwcfm_core.schedule import (
    Cosine,
    Growing,
    Knob,
    Linear,
    Schedule,
    Schedules,
    Target,
    alpha_schedule,
    ema_alpha_schedule,
    tau_schedule,
)
from orwcfm_core.trainer import State
from orwcfm_core.weighting import Exp
from pydantic import ValidationError


@pytest.mark.parametrize(
    ("schedule", "values"),
    [
        (Linear(0.4, 0.0), [0.4, 0.3, 0.2, 0.1, 0.0]),
        (Linear(0.0, 2.0), [0.0, 0.5, 1.0, 1.5, 2.0]),
        (Cosine(1.0, 0.0), [1.0, (1 + math.sqrt(0.5)) / 2, 0.5, (1 - math.sqrt(0.5)) / 2, 0.0]),
        (Cosine(0.1, 0.5), [0.1, 0.3 - 0.2 * math.sqrt(0.5), 0.3, 0.3 + 0.2 * math.sqrt(0.5), 0.5]),
    ],
)
def test_values_from_start_to_end(schedule: Schedule, values: list[float]) -> None:
    assert [schedule.at(i / 4) for i in range(5)] == pytest.approx(values)


@pytest.mark.parametrize("rounds", [1, 2, 5])
def test_the_first_round_has_the_start_and_the_last_the_end(lab: Any, rounds: int) -> None:
    trainer, state = started(lab, Linear(0.8, 0.2), rounds=rounds)
    alphas = [trainer.round(state)["alpha"] for _ in range(rounds)]
    assert alphas[0] == 0.8
    assert alphas[-1] == pytest.approx(0.2 if rounds > 1 else 0.8)
    assert rounds < 3 or alphas[rounds // 2] == pytest.approx(0.5)


def started(lab: Any, schedule: Schedule, **options: Any) -> tuple[OrwCfm, State]:
    trainer, state = lab.start(weighting=Exp(1.0), alpha=0.3, ema=0.5, **options)
    knobs = [Knob("alpha", state.components.regularizer, "alpha", schedule)]
    knobs.append(Knob("tau", state.components.weighting, "tau", Cosine(1.0, 3.0)))
    state.components.schedules = Schedules(knobs)
    return trainer, state


def rows(trainer: OrwCfm, state: State, count: int) -> list[dict[str, Any]]:
    found = [trainer.round(state) for _ in range(count)]
    return [{k: v for k, v in row.items() if k not in ("seconds", "samples_per_second")} for row in found]


@pytest.mark.parametrize("make", [lambda: Linear(0.3, 0.01), lambda: Target(0.3, 0.02)], ids=["linear", "target"])
def test_a_run_that_is_resumed_in_the_middle_goes_on_with_the_same_strengths(
    lab: Any, make: Any, tmp_path: Path
) -> None:
    trainer, state = started(lab, make(), rounds=8)
    rows(trainer, state, 4)
    checkpoint = save_checkpoint(state, tmp_path, keep=1)
    expected = rows(trainer, state, 4)
    again, fresh = started(lab, make(), rounds=8)
    load_checkpoint(fresh, checkpoint)
    assert rows(again, fresh, 4) == expected
    assert len({row["alpha"] for row in expected}) == 4


def test_what_a_method_keeps_is_in_the_checkpoint(lab: Any, tmp_path: Path) -> None:
    trainer, state = lab.start()
    trainer.round(state)
    state.memory = {"x.y": torch.arange(3), "w": torch.rand(2, 2)}
    checkpoint = save_checkpoint(state, tmp_path, keep=1)
    _, fresh = lab.start()
    load_checkpoint(fresh, checkpoint)
    assert fresh.memory.keys() == state.memory.keys()
    assert all(torch.equal(state.memory[name], fresh.memory[name]) for name in state.memory)


def test_the_controller_pushes_towards_the_target_and_no_further_than_its_bounds() -> None:
    target = Target(0.1, 0.05)
    target.observe(None)
    target.observe(0.0)
    target.observe(math.inf)
    assert target.at(0.5) == 0.1
    for divergence, sign in ((0.5, 1), (0.005, -1)):
        target = Target(0.1, 0.05)
        alphas = [target.at(0)]
        for _ in range(200):
            target.observe(divergence)
            alphas.append(target.at(0))
        assert sign * (alphas[1] - alphas[0]) > 0
        assert alphas[-1] == pytest.approx(0.1 * 1000.0**sign)
    assert json.loads(json.dumps(target.state())) == target.state()


def test_the_controller_holds_a_plant_that_follows_slowly() -> None:
    target, divergence = Target(0.01, 0.05), 0.0
    for _ in range(400):
        target.observe(divergence)
        divergence += 0.1 * (0.02 / target.at(0) ** 2 - divergence)
    assert divergence == pytest.approx(0.05, rel=0.01)
    assert target.at(0) == pytest.approx(math.sqrt(0.02 / 0.05), rel=0.01)


def test_the_hold_on_the_sampling_policy_grows_with_the_root_of_its_span(lab: Any) -> None:
    anchor = Anchor.named("both", 0.5)
    rounds, growth = 4, 3.0
    schedule = ema_alpha_schedule(RegConfig(anchor="both", ema_alpha=0.5), growth, rounds)
    assert schedule == Growing(0.5, growth, rounds)
    trainer, state = lab.start(rounds=rounds)
    state.components.regularizer.anchor = anchor
    state.components.schedules = Schedules([Knob("ema_alpha", anchor, "ema_alpha", schedule)])
    found = [row["ema_alpha"] for row in rows(trainer, state, rounds)]
    assert found == pytest.approx([0.5 * math.sqrt(1 + 3 * k) for k in range(rounds)])


@pytest.mark.parametrize(("anchor", "growth"), [("both", 0.0), ("reference", 0.1), ("ema", 0.1)])
def test_nothing_grows_where_the_span_is_constant_or_nothing_is_held(anchor: Any, growth: float) -> None:
    assert ema_alpha_schedule(RegConfig(anchor=anchor), growth, 10) is None


def test_schedules_from_options() -> None:
    assert alpha_schedule(RegConfig(), 0.1) is None
    assert alpha_schedule(RegConfig(schedule="cosine", alpha_end=0.01), 0.1) == Cosine(0.1, 0.01)
    found = alpha_schedule(RegConfig(schedule="target", divergence=0.04), 0.1)
    assert isinstance(found, Target)
    assert (found.start, found.divergence) == (0.1, 0.04)
    assert tau_schedule(ExpConfig(tau=2)) is None
    assert tau_schedule(AdvantageConfig(tau=2, schedule="linear", tau_end=0)) == Linear(2, 0)


@pytest.mark.parametrize(
    "options",
    [
        {"schedule": "linear"},
        {"alpha_end": 0.1},
        {"schedule": "target"},
        {"divergence": 0.1},
        {"schedule": "cosine", "alpha_end": -1},
        {"schedule": "target", "divergence": 0},
        {"schedule": "steps"},
        {"anchor": "nothing"},
        {"anchor": "both", "ema_alpha": -1.5},
    ],
)
def test_incomplete_schedules_are_mistakes(options: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        RegConfig.model_validate(options)
    if "alpha_end" in options:
        with pytest.raises(ValidationError):
            ExpConfig.model_validate({"tau_end": options["alpha_end"]})
