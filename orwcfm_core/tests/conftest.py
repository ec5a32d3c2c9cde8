"""Small stand-ins for plugins: fields with few parameters, a backbone of points, rewards that are one line."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.metadata import EntryPoint
from types import ModuleType
from typing import Any, Self

import pytest
import torch
from orwcfm_core.backbone import Backbone, Condition, Policy, Reference
from orwcfm_core.config import TrainConfig
from orwcfm_core.objective import Objective, Term
from orwcfm_core.orw_cfm import OrwCfm
from orwcfm_core.plugin import GROUPS, BackboneSpec, ComponentConfig, RegularizerSpec, RewardSpec, Suggestions, hookimpl
from orwcfm_core.registry import Plugin, Registry
from orwcfm_core.regularizer import Regularizer
from orwcfm_core.reward import Reward, Scores
from orwcfm_core.sampler import Euler
from orwcfm_core.trainer import Components, State
from orwcfm_core.weighting import Weighting
from pydantic import Field
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


class AffineField(Policy, Reference):
    """`v(t, x) = slope x + rate t + offset`; with `constant`, the offset alone."""

    def __init__(self, dim: int, constant: bool, requires_grad: bool) -> None:
        self.offset = torch.zeros(dim, requires_grad=requires_grad)
        self.slope = torch.zeros(dim, dim, requires_grad=requires_grad)
        self.rate = torch.zeros(dim, requires_grad=requires_grad)
        self.constant = constant

    def velocity(self, t: Tensor, x: Tensor, condition: Condition) -> Tensor:
        if self.constant:
            return self.offset.expand_as(x)
        return x @ self.slope.T + t.reshape(-1, 1) * self.rate + self.offset

    def parameters(self) -> Mapping[str, Tensor]:
        names = ["offset"] if self.constant else ["offset", "slope", "rate"]
        return {name: getattr(self, name) for name in names}


class AffineBackbone(Backbone):
    """Points with affine fields; the reference is constant zero."""

    def __init__(self, dim: int = 2, constant: bool = False) -> None:
        self.dim = dim
        self._policy = AffineField(dim, constant, requires_grad=True)
        self._reference = AffineField(dim, constant, requires_grad=False)

    @property
    def sample_shape(self) -> tuple[int, ...]:
        return (self.dim,)

    def policy(self) -> AffineField:
        return self._policy

    def reference(self) -> AffineField:
        return self._reference

    def encode(self, prompts: Sequence[str]) -> Condition:
        return {}

    def to_images(self, x_1: Tensor) -> Tensor:
        return x_1.sigmoid()[:, None, None, :]

    def to(self, device: torch.device) -> Self:
        return self


class FunctionReward(Reward):
    """Scores with a function of the images."""

    def __init__(self, function: Callable[[Tensor], Any]) -> None:
        self.function = function

    def score(self, images: Tensor, prompts: Sequence[str]) -> Scores:
        return self.function(images)


class FunctionWeighting(Weighting):
    """Weights that are a function of the scores."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        self.function = function

    def weights(self, scores: Tensor, valid: Tensor, groups: Tensor) -> Tensor:
        return self.function(scores)


class SquaredDistance(Regularizer):
    """Mean square of `v - v_ref`."""

    def penalty(self, v: Tensor, v_ref: Tensor, t: Tensor, x: Tensor, weights: Tensor) -> Tensor:
        return (v - v_ref).square().mean(1)


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
        parts = Components(
            backbone=AffineBackbone(dim, constant),
            objective=Objective([Term("reward", FunctionReward(reward), points=True)]),
            regularizer=SquaredDistance(alpha),
            weighting=weighting if isinstance(weighting, Weighting) else FunctionWeighting(weighting),
            sampler=Euler(steps),
        )
        return trainer, trainer.start(parts, ema, torch.device("cpu"))


@pytest.fixture
def lab() -> Lab:
    """The builder of trainers and states."""
    return Lab()


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
