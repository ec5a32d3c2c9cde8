"""A builder of trainers on small fakes, toy plugins, and a reward in an environment of its own."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import EntryPoint
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from orwcfm_core.config import TrainConfig
from orwcfm_core.orw_cfm import OrwCfm
from orwcfm_core.plugin import (
    GROUPS,
    BackboneSpec,
    ComponentConfig,
    RegularizerSpec,
    RewardSpec,
    Spec,
    Suggestions,
    hookimpl,
)
from orwcfm_core.registry import Plugin, Registry
from orwcfm_core.remote import RemotePlugin
from orwcfm_core.reward import Reward
from orwcfm_core.testing import CHECKS, Result, Subject, contract, fakes, run_check
from orwcfm_core.trainer import State
from orwcfm_core.weighting import Weighting
from pydantic import Field
from remote_toy import toy_environment
from torch import Tensor


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    """Small tensors gain nothing from threads, and denormal numbers are slow."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    yield
    torch.set_flush_denormal(False)
    torch.set_num_threads(threads)


class Lab:
    """Builds trainers and states around the affine backbone."""

    def start(
        self,
        reward: Callable[[Tensor], Any] = lambda x: x[:, 0],
        weighting: Weighting | Callable[[Tensor], Tensor] = torch.ones_like,
        *,
        alpha: float = 0.0,
        ema: float = 0.0,
        constant: bool = False,
        dim: int = 2,
        steps: int = 4,
        **train: Any,
    ) -> tuple[OrwCfm, State]:
        """A trainer in fp32 on the CPU and its first state; `weighting` may be a plain function of the scores."""
        trainer = OrwCfm(TrainConfig(**{"device": "cpu", "precision": "fp32", "samples": 64, "rounds": 4} | train))
        state = fakes.start(
            trainer,
            fakes.FunctionReward(reward),
            fakes.SquaredDistance(alpha),
            weighting if isinstance(weighting, Weighting) else fakes.FunctionWeighting(weighting),
            fakes.AffineBackbone(dim, constant),
            ema=ema,
            steps=steps,
        )
        return trainer, state


@pytest.fixture
def lab() -> Lab:
    """The builder of trainers and states."""
    return Lab()


@dataclass(frozen=True)
class Given(Plugin):
    """A plugin without a distribution: a spec, and a function that builds the component."""

    given: Spec
    make: Callable[[Any], Any]

    @property
    def spec(self) -> Spec:
        return self.given

    def build(self, config: ComponentConfig, base: type) -> Any:
        return self.make(config)


@pytest.fixture
def results() -> Callable[..., dict[str, Result]]:
    """What the checks of its kind find of a component, by their names."""

    def find(kind: str, spec: Spec, make: Callable[[Any], Any], closed_form: Any = None) -> dict[str, Result]:
        plugin = Given(kind, EntryPoint(spec.name, "nowhere", GROUPS[kind]), spec, make)
        subject = Subject(plugin, closed_form=closed_form)
        found = [run_check(function, subject) for function in CHECKS[kind] if function not in contract.CHECKS]
        return {result.name: result for result in found}

    return find


@pytest.fixture
def failures(results: Callable[..., dict[str, Result]]) -> Callable[..., dict[str, str]]:
    """The checks of its kind that a component fails, with their messages."""

    def find(*args: Any, **named: Any) -> dict[str, str]:
        return {name: found.message for name, found in results(*args, **named).items() if found.status == "failed"}

    return find


class ToyBackboneConfig(ComponentConfig):
    """Options of the toy backbone."""

    depth: int = Field(2, ge=1, le=9, description="Layers.")
    conditional: bool = Field(False, description="Whether prompts condition it.")


class ToyRewardConfig(ComponentConfig):
    """Options of the toy rewards."""

    strength: float = Field(1.0, gt=0, description="Scale.")
    labels: tuple[int, ...] = Field((), description="Classes.")


class ToyRegularizerConfig(ComponentConfig):
    """Options of the toy regularizer."""

    alpha: float = Field(0.3, ge=0, description="Strength.")


def _rewards() -> list[RewardSpec]:
    """Two rewards."""
    return [
        RewardSpec(name=name, summary="A toy.", config=ToyRewardConfig, factory="nowhere:Nothing")
        for name in ("shine", "judge")
    ]


def _backbones() -> list[BackboneSpec]:
    """A backbone that suggests a judge and labels."""

    def suggest(config: ToyBackboneConfig, prompts: tuple[str, ...]) -> Suggestions:
        return Suggestions(
            prompts=("a boot",), heldout=("judge",), rewards={"judge": {"labels": (5, 7)}, "shine": {"strength": 2.0}}
        )

    return [
        BackboneSpec(
            name="toy",
            summary="A toy.",
            config=ToyBackboneConfig,
            factory="nowhere:Nothing",
            conditional=lambda config: config.conditional,
            suggest=suggest,
        )
    ]


def _regularizers() -> list[RegularizerSpec]:
    """A regularizer."""
    return [RegularizerSpec(name="w2", summary="A toy.", config=ToyRegularizerConfig, factory="nowhere:Nothing")]


@pytest.fixture
def toy_registry(monkeypatch: pytest.MonkeyPatch) -> Registry:
    """The true registry, with toy plugins in place of the installed ones."""
    module = ModuleType("orwcfm_toy_plugin")
    for name, hook in {"rewards": _rewards, "backbones": _backbones, "regularizers": _regularizers}.items():
        setattr(module, f"orwcfm_{name}", hookimpl(hook, specname=f"orwcfm_{name}"))
    monkeypatch.setitem(sys.modules, module.__name__, module)
    registry = Registry()
    registry.plugins = [
        Plugin(kind, EntryPoint(name, module.__name__, GROUPS[kind]))
        for kind, name in [("reward", "shine"), ("reward", "judge"), ("backbone", "toy"), ("regularizer", "w2")]
    ] + [Plugin("trainer", EntryPoint("orw-cfm", "orwcfm_core.trainer_plugin", GROUPS["trainer"]))]
    return registry


@pytest.fixture(scope="module")
def env(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment with the rewards of `remote_toy`."""
    folder = tmp_path_factory.mktemp("remote") / "env with a space"
    toy_environment(folder)
    return folder


@pytest.fixture(scope="module")
def plugin(env: Path) -> RemotePlugin:
    """The reward `toy` there."""
    return RemotePlugin("toy", str(env))


@pytest.fixture(scope="module")
def reward(plugin: RemotePlugin) -> Iterator[Reward]:
    """One reward for all tests of a file: each finds it working, whatever the one before did to it."""
    built = plugin.build(plugin.spec.config(), Reward)
    yield built
    built.close()
