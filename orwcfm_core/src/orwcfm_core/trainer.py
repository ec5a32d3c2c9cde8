"""What a training method works on, and the interface of one."""

from __future__ import annotations

import platform
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import torch
from torch import Tensor

from orwcfm_core.backbone import Backbone, Condition, VelocityField
from orwcfm_core.compiled import Compiled
from orwcfm_core.config import TrainConfig
from orwcfm_core.ema import EMA
from orwcfm_core.errors import RunError, UserError
from orwcfm_core.memory import fitting
from orwcfm_core.metrics import pixel_features
from orwcfm_core.objective import Objective
from orwcfm_core.registry import blame
from orwcfm_core.regularizer import Regularizer
from orwcfm_core.reward import Judge
from orwcfm_core.sampler import Sampler
from orwcfm_core.schedule import Schedules
from orwcfm_core.weighting import Weighting

__all__ = [
    "Components",
    "SkippedTooOften",
    "State",
    "Trainer",
    "autocast",
    "choose_precision",
    "draw",
    "repeat_condition",
]

T = TypeVar("T")

_FUSED = ("cpu", "cuda")
"""Devices whose optimiser does all parameters in one kernel."""


class SkippedTooOften(RunError):
    """Too many updates in a row could not be done.

    Args:
        message: Why.
        inputs: What the last of them was to work on, by name.
    """

    def __init__(self, message: str, inputs: Mapping[str, Tensor]) -> None:
        super().__init__(message)
        self.inputs = inputs


@dataclass
class Components:
    """The parts that a training method combines.

    Args:
        backbone: Policy, reference and the way to pictures.
        objective: What is maximised: one reward or several.
        regularizer: Keeps the policy near the reference.
        weighting: Scores to weights.
        sampler: Noise to samples.
        prompts: At least one; an unconditional backbone has exactly one.
        heldout: Judges that are not trained on.
        schedules: What changes strengths from round to round.
    """

    backbone: Backbone
    objective: Objective
    regularizer: Regularizer
    weighting: Weighting
    sampler: Sampler
    prompts: Sequence[str] = ("",)
    heldout: Sequence[Judge] = ()
    schedules: Schedules = field(default_factory=Schedules)

    @property
    def feature_space(self) -> Judge | None:
        """Whose features measure diversity: the first judge or reward that has any; None measures it in pixels."""
        return next((judge for judge in (*self.heldout, *self.objective.terms) if judge.has_features), None)

    def features(self, x_1: Tensor, images: Tensor) -> Tensor:
        """What diversity is measured in, `(B, D)`: the features of `feature_space`, else pixels."""
        with torch.no_grad():
            found = self.feature_space.features(x_1, images) if self.feature_space else None
        return pixel_features(images) if found is None else found


@dataclass
class State:
    """Everything that changes during a run.

    Args:
        components: What is trained.
        optimizer: Over the policy's parameters.
        ema: The sampling policy.
        generator: Source of all random numbers.
        device: Where tensors live.
        precision: `fp32`, `bf16` or `fp16`.
        micro_batch: Samples in the networks at once; halved when memory runs out.
        scaler: Scales the loss, so that gradients are not lost in fp16; does nothing in other precisions.
        round: Rounds done.
        skipped: Updates in a row that were skipped, up to now.
        memory: What else a method keeps from round to round, by name; checkpoints hold it.
    """

    components: Components
    optimizer: torch.optim.Optimizer
    ema: EMA
    generator: torch.Generator
    device: torch.device
    precision: str
    micro_batch: int
    scaler: torch.amp.GradScaler = field(default_factory=lambda: torch.amp.GradScaler("cpu", enabled=False))
    round: int = 0
    skipped: int = 0
    memory: dict[str, Tensor] = field(default_factory=dict)

    def autocast(self) -> torch.autocast:
        """Compute in the run's precision."""
        return autocast(self.device, self.precision)

    def noise(self, count: int) -> Tensor:
        """Standard normal noise for `count` samples, `(count, *)`."""
        shape = (count, *self.components.backbone.sample_shape)
        return torch.randn(shape, generator=self.generator, device=self.device)

    def fit(self, attempt: Callable[[int], T]) -> T:
        """Attempt something with micro-batches that fit into memory; see `memory.fitting`."""

        def noted(micro_batch: int) -> T:
            # Before the attempt: compiled fields are padded to no more than this.
            self.micro_batch = micro_batch
            return attempt(micro_batch)

        return fitting(noted, self.micro_batch)[0]

    def sample(self, noise: Tensor, prompts: Sequence[str]) -> tuple[Tensor, int]:
        """Sample from the sampling policy.

        Args:
            noise: `(B, *)`.
            prompts: B strings.

        Returns:
            Samples, `(B, *)`, and model evaluations in total.
        """
        backbone, sampler = self.components.backbone, self.components.sampler
        with self.ema.swapped(), self.autocast():
            return self.fit(lambda size: draw(backbone, backbone.policy(), sampler, noise, prompts, size))


def draw(
    backbone: Backbone,
    field: VelocityField,
    sampler: Sampler,
    noise: Tensor,
    prompts: Sequence[str],
    micro_batch: int,
) -> tuple[Tensor, int]:
    """Sample from a field.

    Args:
        backbone: Encodes the prompts.
        field: Its policy or its reference.
        sampler: Noise to samples.
        noise: `(B, *)`.
        prompts: B strings.
        micro_batch: Samples in the network at once.

    Returns:
        Samples, `(B, *)` float32, and model evaluations in total.
    """
    parts, nfe = [], 0
    for start in range(0, len(noise), micro_batch):
        part = noise[start : start + micro_batch]
        sample = sampler.sample(field, part, backbone.encode(prompts[start : start + micro_batch]))
        parts.append(sample.x_1.float())
        nfe += sample.nfe * len(part)
    return torch.cat(parts), nfe


class Trainer(ABC):
    """A training method.

    Args:
        config: Options of section `train`.
    """

    def __init__(self, config: TrainConfig) -> None:
        self.config = config

    def check(self, components: Components) -> None:
        """Look at what the first round needs from outside, before anything of a new run is written; by default nothing.

        Args:
            components: Of the run.

        Raises:
            UserError: It is not there, or does not fit.
        """
        return

    def start(self, components: Components, ema_decay: float, device: torch.device, ema_growth: float = 0.0) -> State:
        """Move everything to the device and prepare the state before the first round.

        Args:
            components: What is trained.
            ema_decay: Decay of the sampling policy in the first round, in [0, 1).
            device: Where to train.
            ema_growth: Of the sampling policy's span, per round; see `EMA`.
        """
        components.backbone.to(device)
        for judge in (*components.objective.terms, *components.heldout):
            judge.reward.to(device)
        parameters = list(components.backbone.policy().parameters().values())
        precision = choose_precision(self.config.precision, device)
        state = State(
            components=components,
            optimizer=torch.optim.AdamW(
                parameters, lr=self.config.lr, betas=(0.9, 0.99), weight_decay=0.0, fused=device.type in _FUSED
            ),
            ema=EMA(parameters, ema_decay, ema_growth),
            generator=torch.Generator(device).manual_seed(self.config.seed),
            device=device,
            precision=precision,
            micro_batch=self.config.micro_batch,
            scaler=torch.amp.GradScaler(device.type, enabled=precision == "fp16"),
        )
        if self.config.compile:
            self._compile(state)
        return state

    def _compile(self, state: State) -> None:
        """Compile policy and reference, for batches as large as samples are drawn in."""
        part = -(-self.config.samples // self.config.overlap)
        compiled = Compiled(state.components.backbone, lambda: min(state.micro_batch, part))
        state.components = replace(state.components, backbone=compiled)
        with blame("train.compile", UserError):
            state.fit(lambda size: compiled.warm_up(state.components.prompts[0], state.device, state.autocast))

    @abstractmethod
    def round(self, state: State) -> dict[str, Any]:
        """Do one round, advance `state.round`, and return its metrics (docs/metrics.md)."""


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """Compute in `fp32`, `bf16` or `fp16`."""
    dtype = torch.float16 if precision == "fp16" else torch.bfloat16
    return torch.autocast(device.type, dtype, enabled=precision != "fp32")


def choose_precision(precision: str, device: torch.device) -> str:
    """`auto` becomes bf16 where the device computes in it natively, else fp32.

    Raises:
        UserError: The device does not train in this precision.
    """
    if precision == "fp16" and device.type == "cpu":
        raise UserError("train.precision: fp16 is for GPUs, and this runs on the CPU; use bf16 or fp32")
    if precision != "auto":
        return precision
    if device.type == "cuda":
        native = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        native = device.type == "cpu" and torch.backends.mkldnn.is_available() and _computes_bf16()
    return "bf16" if native else "fp32"


def _computes_bf16() -> bool:
    """Whether this processor has instructions for bf16.

    On one that has AVX-512 without them, oneDNN emulates them and takes several times as long as in fp32.
    """
    emulated = platform.machine() in ("x86_64", "AMD64") and not (
        torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    )
    return not emulated and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def repeat_condition(condition: Condition, draws: int) -> Condition:
    """Each row `draws` times in a row."""
    return {name: value.repeat_interleave(draws, dim=0) for name, value in condition.items()}
