"""Each check of a trainer fails the trainers that it is for, and those alone."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import pytest
import torch
from orwcfm_core.config import TrainConfig
from orwcfm_core.orw_cfm import OrwCfm
from orwcfm_core.plugin import Example, TrainerSpec
from orwcfm_core.registry import Registry
from orwcfm_core.testing import Subject, run_check
from orwcfm_core.testing.trainers import CHECKS
from orwcfm_core.trainer import Components, State
from pydantic import Field

SPEC = TrainerSpec(name="toy", summary="A toy.", config=TrainConfig, factory="x:Y")


class Idle(OrwCfm):
    """Takes its updates back."""

    def round(self, state: State) -> dict[str, Any]:
        before = [p.detach().clone() for p in state.ema.parameters]
        metrics = super().round(state)
        with torch.no_grad():
            for p, value in zip(state.ema.parameters, before, strict=True):
                p.copy_(value)
        return metrics


class OneSeed(OrwCfm):
    def start(self, components: Components, ema_decay: float, device: torch.device, ema_growth: float = 0.0) -> State:
        state = super().start(components, ema_decay, device, ema_growth)
        state.generator.manual_seed(0)
        return state


class Forgetful(OrwCfm):
    """Counts rounds in itself."""

    rounds = 0

    def round(self, state: State) -> dict[str, Any]:
        self.rounds += 1
        return super().round(state) | {"turn": self.rounds}


class Unmeasured(OrwCfm):
    def round(self, state: State) -> dict[str, Any]:
        metrics = super().round(state)
        del metrics["ess"]
        return metrics


class Tensors(OrwCfm):
    def round(self, state: State) -> dict[str, Any]:
        return super().round(state) | {"extra": torch.ones(())}


class Uncounted(OrwCfm):
    def round(self, state: State) -> dict[str, Any]:
        metrics = super().round(state)
        state.round = 0
        return metrics


class Random(OrwCfm):
    def round(self, state: State) -> dict[str, Any]:
        return super().round(state) | {"chance": random.random()}


def failed(trainer: type[OrwCfm], failures: Any) -> list[str]:
    return list(failures("trainer", SPEC, trainer))


@pytest.mark.parametrize(
    ("trainer", "fails"),
    [
        (OrwCfm, []),
        (Idle, ["lowers_loss"]),
        (OneSeed, ["deterministic"]),
        (Forgetful, ["resumes"]),
        (Unmeasured, ["metrics"]),
        (Tensors, ["metrics"]),
        (Uncounted, ["advances_round"]),
        (Random, ["deterministic", "resumes"]),
    ],
)
def test_a_wrong_trainer_fails_its_check(trainer: type[OrwCfm], fails: list[str], failures: Any) -> None:
    # The core may be tested without its plugins; these trainers are tried on this one.
    pytest.importorskip("orwcfm_backbone_gmm")
    assert failed(trainer, failures) == fails


class TwiceConfig(TrainConfig):
    updates: int = Field(2, ge=2)


def test_a_trainer_is_tried_with_the_options_of_its_example(failures: Any) -> None:
    # The core may be tested without its plugins; the trainer is tried on this one.
    pytest.importorskip("orwcfm_backbone_gmm")
    spec = replace(SPEC, config=TwiceConfig, example=Example(options={"updates": 2}))
    assert failures("trainer", spec, OrwCfm) == {}


def test_without_gmm_they_are_skipped() -> None:
    registry = Registry()
    plugin = registry.get("trainer", "orw-cfm")
    registry.plugins = [plugin]
    results = [run_check(check, Subject(plugin, registry=registry)) for check in CHECKS]
    assert {result.status for result in results} == {"skipped"}
    assert results[0].message == "needs the backbone 'gmm': pip install orwcfm-backbone-gmm"
