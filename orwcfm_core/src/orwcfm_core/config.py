"""The options of a run, by section. No torch in here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import Field, FiniteFloat, ValidationInfo, field_validator

from orwcfm_core.plugin import ComponentConfig
from orwcfm_core.registry import Plugin
from orwcfm_core.remote import RemotePlugin

__all__ = [
    "SAMPLERS",
    "SECTIONS",
    "WEIGHTINGS",
    "AdaptiveConfig",
    "AdvantageConfig",
    "Choice",
    "CombineConfig",
    "ExpConfig",
    "FixedStepConfig",
    "GroupAdvantageConfig",
    "JudgeChoice",
    "JudgeConfig",
    "OrwCfmConfig",
    "RegChoice",
    "RegConfig",
    "RewardChoice",
    "RunConfig",
    "SamplerConfig",
    "SoftmaxConfig",
    "TauConfig",
    "TermConfig",
    "TopKConfig",
    "TrainConfig",
    "WeightingConfig",
]


class SamplerConfig(ComponentConfig):
    """Options that every sampler has."""

    name: str = Field(description="Solver of the ODE from noise to data.")
    ema: float = Field(
        0.8, ge=0, lt=1, description="Decay in the first round of the average that is sampled from; 0 is a hard copy."
    )
    ema_growth: float = Field(
        0.025,
        ge=0,
        le=1,
        description="Per round, growth of the rounds that this average spans, as a share of those it spans at first.",
    )


class FixedStepConfig(SamplerConfig):
    """A solver with a given number of steps."""

    name: Literal["euler", "midpoint", "heun", "adams", "rk4"] = Field("adams", description="Solver with fixed steps.")
    steps: int = Field(10, ge=1, le=10_000, description="Steps from noise to data.")
    shift: float = Field(
        1.0,
        gt=0,
        le=100,
        description="Over 1, steps are shorter near noise: t / (t + shift (1 - t)); 1 is equal steps.",
    )


class AdaptiveConfig(SamplerConfig):
    """A solver that chooses its steps."""

    name: Literal["dopri5"] = Field("dopri5", description="Adaptive solver.")
    rtol: float = Field(1e-3, gt=0, le=1, description="Relative tolerance.")
    atol: float = Field(1e-3, gt=0, le=1, description="Absolute tolerance.")


class WeightingConfig(ComponentConfig):
    """Options that every weighting has."""

    name: str = Field(description="How scores become weights.")


class TauConfig(WeightingConfig):
    """Options of a weighting whose strength tau may change from round to round."""

    schedule: Literal["constant", "linear", "cosine"] = Field(
        "constant", description="How tau goes from its value in the first round to tau_end in the last."
    )
    tau: float = Field(1.0, ge=0, le=1e6, description="Strength of the reward.")
    tau_end: float | None = Field(
        None, ge=0, le=1e6, validate_default=True, description="tau of the last round, if it changes."
    )

    @field_validator("tau_end")
    @classmethod
    def _with_schedule(cls, end: float | None, others: ValidationInfo) -> float | None:
        return _only_with(("linear", "cosine"), end, others)


class AdvantageConfig(TauConfig):
    """Signed, centred per prompt, clipped."""

    name: Literal["advantage"] = Field("advantage", description="Signed, centred per prompt, clipped.")
    tau: float = Field(0.8, ge=0, le=1e6, description="Strength of the reward against the regularizer.")
    clip: float = Field(3.0, gt=0, le=100, description="Largest absolute advantage, in standard deviations.")
    margin: float = Field(
        0.0,
        ge=0,
        le=100,
        description="How much better than what it is relative to a sample must be for a weight above 0, in standard "
        "deviations.",
    )
    neighbours: int = Field(
        8,
        ge=0,
        le=10_000,
        description="A point's weight is relative to the mean of this many other samples that it may lead to; 0: to "
        "the prompt's.",
    )
    fade: float = Field(
        1.0,
        ge=0,
        le=100,
        description="Weigh by t^fade (1-t): less near noise, the more so the larger it is, and near data; 0: all times "
        "alike.",
    )


class GroupAdvantageConfig(TauConfig):
    """Signed, in standard deviations of the round's own samples."""

    name: Literal["group-advantage"] = Field(
        "group-advantage", description="Signed, in standard deviations of this round's scores (GRPO), clipped."
    )
    tau: float = Field(1.0, ge=0, le=1e6, description="Strength of the reward against the regularizer.")
    clip: float = Field(5.0, gt=0, le=100, description="Largest absolute advantage, in standard deviations.")
    spread: Literal["prompt", "round"] = Field(
        "prompt", description="Whose standard deviation is the unit: that of the prompt's samples or of the round's."
    )


class ExpConfig(TauConfig):
    """The paper's exponential weights."""

    name: Literal["exp"] = Field("exp", description="The paper's exp(tau r), of mean 1.")
    tau: float = Field(5.0, ge=0, le=1e6, description="Inverse temperature, in 1 / score.")


class SoftmaxConfig(TauConfig):
    """Exponential weights of standardised scores."""

    name: Literal["softmax"] = Field("softmax", description="exp of standardised scores, of mean 1 per prompt.")
    tau: float = Field(1.0, ge=0, le=1e6, description="Inverse temperature, in 1 / standard deviation.")


class TopKConfig(WeightingConfig):
    """Equal weights for the best."""

    name: Literal["top-k"] = Field("top-k", description="Equal weights for the best of each prompt.")
    fraction: float = Field(0.25, gt=0, le=1, description="Share of the samples that is kept.")


SAMPLERS: Mapping[str, type[SamplerConfig]] = {
    "euler": FixedStepConfig,
    "midpoint": FixedStepConfig,
    "heun": FixedStepConfig,
    "adams": FixedStepConfig,
    "rk4": FixedStepConfig,
    "dopri5": AdaptiveConfig,
}
WEIGHTINGS: Mapping[str, type[WeightingConfig]] = {
    "advantage": AdvantageConfig,
    "group-advantage": GroupAdvantageConfig,
    "exp": ExpConfig,
    "softmax": SoftmaxConfig,
    "top-k": TopKConfig,
}


class JudgeConfig(ComponentConfig):
    """Options that every reward has besides its own, trained on or not."""

    on_error: str = Field(
        "fail",
        pattern=r"^(fail|drop|retry\(\d{1,3}\)|penalise\([-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d{1,2})?\))$",
        description="When it fails or gives no finite number: fail, drop (leave out), retry(N) or penalise(SCORE).",
    )
    timeout: float | None = Field(
        None, gt=0, le=1e6, description="Seconds for a batch, for a reward in an environment of its own; unset: 600."
    )

    @field_validator("on_error")
    @classmethod
    def _score_in_range(cls, on_error: str) -> str:
        # Scores are float32, where more would be infinity.
        if on_error.startswith("penalise") and not abs(float(on_error[len("penalise(") : -1])) <= 1e30:
            raise ValueError("penalise: expected a score between -1e30 and 1e30")
        return on_error


class TermConfig(JudgeConfig):
    """Options that every reward has besides its own where it is trained on."""

    weight: FiniteFloat = Field(1.0, description="Weight of this reward among several: NAME:WEIGHT for short.")
    normalise: Literal["none", "z-score", "per-prompt"] = Field(
        "none",
        description="Scale of the scores: as they are, in standard deviations of the last ones, or of this round's "
        "for the same prompt.",
    )
    window: int = Field(1024, ge=2, le=1_000_000, description="Scores that z-score looks back on.")


class RegConfig(ComponentConfig):
    """Options that every regularizer has besides its own."""

    anchor: Literal["reference", "ema", "both"] = Field(
        "reference", description="What the policy is held to: the reference, the sampling policy (an EMA), or both."
    )
    ema_alpha: float = Field(
        0.6,
        ge=0,
        le=1e6,
        description="With anchor=both: strength that holds to the sampling policy, besides alpha; it grows with the "
        "square root of the rounds that policy spans.",
    )
    schedule: Literal["constant", "linear", "cosine", "target"] = Field(
        "constant",
        description="How alpha goes from its value in the first round to alpha_end in the last; target adjusts it so "
        "that the velocity divergence comes to the given one.",
    )
    alpha_end: float | None = Field(
        None, ge=0, le=1e6, validate_default=True, description="alpha of the last round, if it changes."
    )
    divergence: float | None = Field(
        None, gt=0, le=1e6, validate_default=True, description="Velocity divergence to hold (schedule=target)."
    )

    @field_validator("alpha_end")
    @classmethod
    def _end_with_schedule(cls, end: float | None, others: ValidationInfo) -> float | None:
        return _only_with(("linear", "cosine"), end, others)

    @field_validator("divergence")
    @classmethod
    def _divergence_with_schedule(cls, divergence: float | None, others: ValidationInfo) -> float | None:
        return _only_with(("target",), divergence, others)


class CombineConfig(ComponentConfig):
    """How several rewards become one."""

    combine: Literal["sum", "product", "minimum"] = Field(
        "sum",
        description="Sum of weight times score, product of score to the weight, or minimum of weight times score.",
    )


Passes = Annotated[
    int,
    Field(
        ge=1,
        le=1_000_000,
        description="Passes of a round's updates over the same points, what reference and sampling policy say there "
        "being computed once; 1: each update draws its own.",
    ),
]


class TrainConfig(ComponentConfig):
    """Options that every trainer has."""

    rounds: int = Field(80, ge=1, description="Rounds of sampling, scoring and updating.")
    samples: int = Field(128, ge=2, le=1_000_000, description="Samples per round.")
    group: int | None = Field(None, ge=2, description="Samples per prompt in a round; unset: prompts share them.")
    updates: int = Field(4, ge=1, le=1_000_000, description="Updates per round, each on all of its samples.")
    draws: int = Field(1, ge=1, le=10_000, description="Draws of time and noise per sample in an update.")
    passes: Passes = 1
    coupling: Literal["independent", "optimal-transport"] = Field(
        "independent",
        description="How noise is paired with samples; with optimal-transport weights select less.",
    )
    lr: float = Field(5e-4, gt=0, le=1, description="Learning rate of AdamW.")
    warmup: int = Field(10, ge=0, description="Updates over which the learning rate rises from 0.")
    decay: float = Field(0.1, ge=0, le=1, description="Share of the learning rate that is left at the end (cosine).")
    clip_norm: float = Field(1.0, gt=0, description="Largest norm of the gradient.")
    micro_batch: int = Field(
        256,
        ge=1,
        description="Samples in the networks at once; changes no result (of dopri5: within its tolerance).",
    )
    overlap: int = Field(
        1,
        ge=1,
        le=10_000,
        description="Parts of a round's samples, each scored while the next is drawn: for a slow reward; 1 is none.",
    )
    seed: int = Field(0, ge=0, lt=2**63, description="Seed of all random numbers.")
    device: str = Field("auto", description="auto, cpu, cuda, cuda:1, mps.")
    precision: Literal["auto", "fp32", "bf16", "fp16"] = Field(
        "auto", description="Precision of the networks; auto is bf16 where the device computes in it, else fp32."
    )
    compile: bool = Field(False, description="Compile policy and reference: minutes at first, then faster.")
    threads: int | None = Field(None, ge=1, le=1024, description="Threads of the CPU; unset: torch's choice.")
    keep: int = Field(2, ge=1, description="Checkpoints that are kept.")
    checkpoint_every: int = Field(10, ge=1, description="Rounds between checkpoints.")
    grid_every: int = Field(10, ge=1, description="Rounds between pictures of the same noise.")
    max_skipped: int = Field(
        20, ge=1, description="Updates in a row that may be skipped, for want of valid scores or a finite gradient."
    )
    early_stop: int = Field(
        0,
        ge=0,
        description="Rounds without a better held-out score after which the best is the result, as checkpoints tell; "
        "0 is never.",
    )
    eval_samples: int = Field(
        1024, ge=2, le=1_000_000, description="Samples that reference and result are measured on."
    )

    @property
    def batches(self) -> int:
        """Updates of a round that draw points; those after them go over the same again."""
        return -(-self.updates // self.passes)


class OrwCfmConfig(TrainConfig):
    """Options of `orw-cfm`: those that every trainer has."""

    passes: Passes = 2


SECTIONS = ("backbone", "reward", "heldout", "reg", "weighting", "sampler", "train", "callback")
"""Sections of a configuration, in the order in which they are printed."""


@dataclass(frozen=True)
class Choice:
    """A plugin and its options.

    Args:
        asked: What the user called it: its name, `NAME@DIST` or `NAME@ENVIRONMENT`.
        plugin: The plugin, here or in another environment.
        config: Its options.
    """

    asked: str
    plugin: Plugin | RemotePlugin
    config: ComponentConfig

    @property
    def name(self) -> str:
        """The component's name."""
        return self.plugin.name


@dataclass(frozen=True)
class JudgeChoice(Choice):
    """A reward that judges.

    Args:
        term: The options that every reward has.
    """

    term: JudgeConfig


@dataclass(frozen=True)
class RewardChoice(JudgeChoice):
    """A reward that is trained on."""

    term: TermConfig


@dataclass(frozen=True)
class RegChoice(Choice):
    """A regularizer.

    Args:
        term: The options that every regularizer has.
    """

    term: RegConfig


@dataclass(frozen=True)
class RunConfig:
    """A run's configuration, checked and complete.

    Args:
        backbone: The generative model.
        rewards: What is trained on; at least one.
        combine: How they become one.
        heldout: What judges and is not trained on.
        regs: The regularizers; at least one.
        trainer: The training method, whose config has the options of section `train`.
        callbacks: What is told of the run's events.
        weighting: Options of the weighting.
        sampler: Options of the sampler.
        prompts: At least one; an empty string where nobody named any.
    """

    backbone: Choice
    rewards: tuple[RewardChoice, ...]
    combine: CombineConfig
    heldout: tuple[JudgeChoice, ...]
    regs: tuple[RegChoice, ...]
    trainer: Choice
    callbacks: tuple[Choice, ...]
    weighting: WeightingConfig
    sampler: SamplerConfig
    prompts: tuple[str, ...]

    @property
    def train(self) -> TrainConfig:
        """Options of section `train`."""
        assert isinstance(self.trainer.config, TrainConfig)
        return self.trainer.config

    @property
    def choices(self) -> tuple[Choice, ...]:
        """All plugins that take part."""
        return (self.backbone, *self.rewards, *self.heldout, *self.regs, self.trainer, *self.callbacks)

    def tables(self) -> dict[str, dict[str, Any]]:
        """The configuration as plain tables, which `resolve` reads back to the same; unset options are left out."""
        rewards = {"prompt": list(self.prompts), **_dump(self.combine)}
        return {
            "backbone": _table([self.backbone]),
            "reward": _table(self.rewards) | rewards,
            "heldout": _table(self.heldout),
            "reg": _table(self.regs),
            "weighting": {"name": self.weighting.name} | _dump(self.weighting),
            "sampler": {"name": self.sampler.name} | _dump(self.sampler),
            "train": _table([self.trainer]),
            "callback": _table(self.callbacks),
        }


def _only_with(schedules: tuple[str, ...], value: float | None, others: ValidationInfo) -> float | None:
    """See that a value is set where a schedule needs it, and nowhere else."""
    chosen = others.data.get("schedule")
    if chosen is not None and (value is None) == (chosen in schedules):
        raise ValueError(f"set it together with schedule={' or '.join(schedules)}, and only then")
    return value


def _dump(config: ComponentConfig) -> dict[str, Any]:
    return config.model_dump(mode="json", exclude_none=True)


def _table(choices: Sequence[Choice]) -> dict[str, Any]:
    """A section: one component's options side by side with its name, those of several in tables of their own."""
    options = [
        (_dump(choice.term) if isinstance(choice, JudgeChoice | RegChoice) else {}) | _dump(choice.config)
        for choice in choices
    ]
    if not choices:
        return {"name": "none"}
    if len(choices) == 1:
        return {"name": choices[0].asked} | options[0]
    return {"name": [choice.asked for choice in choices]} | {
        choice.name: table for choice, table in zip(choices, options, strict=True)
    }
