"""A run's configuration: sections of options, checked together, with every mistake named at once. No torch in here."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import Field, ValidationError

from orwcfm_core.errors import UserError
from orwcfm_core.plugin import BackboneSpec, ComponentConfig, RewardSpec, Spec, Suggestions
from orwcfm_core.registry import Plugin, Registry

__all__ = [
    "SAMPLERS",
    "SECTIONS",
    "WEIGHTINGS",
    "AdaptiveConfig",
    "AdvantageConfig",
    "Choice",
    "ExpConfig",
    "FixedStepConfig",
    "RunConfig",
    "SamplerConfig",
    "SoftmaxConfig",
    "TopKConfig",
    "TrainConfig",
    "WeightingConfig",
    "resolve",
]


class SamplerConfig(ComponentConfig):
    """Options that every sampler has."""

    name: str = Field(description="Solver of the ODE from noise to data.")
    ema: float = Field(
        0.8, ge=0, lt=1, description="Decay per round of the average that is sampled from; 0 is a hard copy."
    )


class FixedStepConfig(SamplerConfig):
    """A solver with equal steps."""

    name: Literal["euler", "midpoint", "heun", "rk4"] = Field("euler", description="Solver with equal steps.")
    steps: int = Field(10, ge=1, le=10_000, description="Steps from noise to data.")


class AdaptiveConfig(SamplerConfig):
    """A solver that chooses its steps."""

    name: Literal["dopri5"] = Field("dopri5", description="Adaptive solver.")
    rtol: float = Field(1e-3, gt=0, le=1, description="Relative tolerance.")
    atol: float = Field(1e-3, gt=0, le=1, description="Absolute tolerance.")


class WeightingConfig(ComponentConfig):
    """Options that every weighting has."""

    name: str = Field(description="How scores become weights.")


class AdvantageConfig(WeightingConfig):
    """Signed, centred per prompt, clipped."""

    name: Literal["advantage"] = Field("advantage", description="Signed, centred per prompt, clipped.")
    tau: float = Field(0.5, ge=0, le=1e6, description="Strength of the reward against the regularizer.")
    clip: float = Field(3.0, gt=0, le=100, description="Largest absolute advantage, in standard deviations.")


class ExpConfig(WeightingConfig):
    """The paper's exponential weights."""

    name: Literal["exp"] = Field("exp", description="The paper's exp(tau r), of mean 1.")
    tau: float = Field(5.0, ge=0, le=1e6, description="Inverse temperature, in 1 / score.")


class SoftmaxConfig(WeightingConfig):
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
    "rk4": FixedStepConfig,
    "dopri5": AdaptiveConfig,
}
WEIGHTINGS: Mapping[str, type[WeightingConfig]] = {
    "advantage": AdvantageConfig,
    "exp": ExpConfig,
    "softmax": SoftmaxConfig,
    "top-k": TopKConfig,
}


class TrainConfig(ComponentConfig):
    """Options that every trainer has."""

    rounds: int = Field(60, ge=1, description="Rounds of sampling, scoring and updating.")
    samples: int = Field(128, ge=2, description="Samples per round.")
    group: int | None = Field(None, ge=2, description="Samples per prompt in a round; unset: prompts share them.")
    updates: int = Field(4, ge=1, description="Updates per round, each on all of its samples.")
    draws: int = Field(1, ge=1, description="Draws of time and noise per sample in an update.")
    coupling: Literal["independent", "optimal-transport"] = Field(
        "independent", description="How noise is paired with samples."
    )
    lr: float = Field(2e-4, gt=0, le=1, description="Learning rate of AdamW.")
    warmup: int = Field(10, ge=0, description="Updates over which the learning rate rises from 0.")
    decay: float = Field(0.1, ge=0, le=1, description="Share of the learning rate that is left at the end (cosine).")
    clip_norm: float = Field(1.0, gt=0, description="Largest norm of the gradient.")
    micro_batch: int = Field(256, ge=1, description="Samples in memory at once; never changes the result.")
    seed: int = Field(0, ge=0, lt=2**63, description="Seed of all random numbers.")
    device: str = Field("auto", description="auto, cpu, cuda, cuda:1, mps.")
    precision: Literal["auto", "fp32", "bf16"] = Field(
        "auto", description="Precision of the networks; auto is bf16 where the device computes in it."
    )
    keep: int = Field(2, ge=1, description="Checkpoints that are kept.")
    checkpoint_every: int = Field(10, ge=1, description="Rounds between checkpoints.")
    grid_every: int = Field(10, ge=1, description="Rounds between pictures of the same noise.")


SECTIONS = ("backbone", "reward", "heldout", "reg", "weighting", "sampler", "train")
"""Sections of a configuration, in the order in which they are printed."""


@dataclass(frozen=True)
class Choice:
    """A plugin and its options.

    Args:
        asked: What the user called it: its name, or `NAME@DIST`.
        plugin: The plugin.
        config: Its options.
    """

    asked: str
    plugin: Plugin
    config: ComponentConfig

    @property
    def name(self) -> str:
        """The component's name."""
        return self.plugin.name


@dataclass(frozen=True)
class RunConfig:
    """A run's configuration, checked and complete.

    Args:
        backbone: The generative model.
        reward: What is trained on.
        heldout: What judges and is not trained on, if anything.
        reg: The regularizer.
        trainer: The training method, whose config has the options of section `train`.
        weighting: Options of the weighting.
        sampler: Options of the sampler.
        prompts: At least one; an empty string where nobody named any.
    """

    backbone: Choice
    reward: Choice
    heldout: Choice | None
    reg: Choice
    trainer: Choice
    weighting: WeightingConfig
    sampler: SamplerConfig
    prompts: tuple[str, ...]

    @property
    def train(self) -> TrainConfig:
        """Options of section `train`."""
        assert isinstance(self.trainer.config, TrainConfig)
        return self.trainer.config

    def tables(self) -> dict[str, dict[str, Any]]:
        """The configuration as plain tables, which `resolve` reads back to the same; unset options are left out."""

        def table(name: str, config: ComponentConfig) -> dict[str, Any]:
            return {"name": name} | config.model_dump(mode="json", exclude_none=True)

        prompts = {"prompt": list(self.prompts)}
        return {
            "backbone": table(self.backbone.asked, self.backbone.config),
            "reward": table(self.reward.asked, self.reward.config) | prompts,
            "heldout": table(self.heldout.asked, self.heldout.config) if self.heldout else {"name": "none"},
            "reg": table(self.reg.asked, self.reg.config),
            "weighting": table(self.weighting.name, self.weighting),
            "sampler": table(self.sampler.name, self.sampler),
            "train": table(self.trainer.asked, self.trainer.config),
        }


class _Reader:
    """Reads sections one by one and collects what is wrong with them."""

    def __init__(self, tables: Mapping[str, Mapping[str, Any]], registry: Registry) -> None:
        self.tables = {section: dict(table) for section, table in tables.items()}
        self.registry = registry
        self.errors: list[str] = []

    def pop(self, section: str, option: str, default: Any = None) -> Any:
        return self.tables.setdefault(section, {}).pop(option, default)

    def prompts(self) -> tuple[str, ...]:
        """Take out `reward.prompt`: a string or a list of them."""
        prompt = self.pop("reward", "prompt", ())
        given = (prompt,) if isinstance(prompt, str) else prompt
        if not isinstance(given, list | tuple) or not all(isinstance(p, str) for p in given):
            self.errors.append(f"reward.prompt: expected a string or a list of strings, got {prompt!r}")
            return ()
        return tuple(given)

    def component(self, section: str, kind: str, default: str, below: Mapping[str, Any] | None = None) -> Choice | None:
        """Choose a plugin by the section's name and read its options; `below` lies under what the user set."""
        try:
            asked = str(self.pop(section, "name", default))
            plugin = self.registry.get(kind, asked)
            spec = plugin.spec
        except UserError as e:
            self.errors.append(f"{section}.name: {e}")
            return None
        config = self.options(section, spec.config, plugin.name, below)
        return Choice(asked, plugin, config) if config else None

    def reward(self, section: str, default: str, suggested: Suggestions) -> Choice | None:
        """Choose a reward, with the backbone's suggestions for it; a run can do without a judge, called `none`."""
        name = str(self.tables.get(section, {}).get("name", default))
        if section == "heldout" and name == "none":
            return None
        return self.component(section, "reward", name, suggested.rewards.get(name.partition("@")[0], {}))

    def options(
        self, section: str, model: type[ComponentConfig], owner: str, below: Mapping[str, Any] | None = None
    ) -> ComponentConfig | None:
        """Read a section's options; on a mistake, note it and return None."""
        given = self.tables.get(section, {})
        try:
            return model.model_validate({**(below or {}), **given})
        except ValidationError as e:
            self.errors += [_explain(section, owner, model, error) for error in e.errors()]
            return None

    def named(self, section: str, table: Mapping[str, type[Any]], default: str) -> Any:
        """Read a section whose name chooses one of a fixed set."""
        name = str(self.tables.get(section, {}).setdefault("name", default)) if section in self.tables else default
        if name not in table:
            self.errors.append(f"{section}.name: unknown {section} '{name}', {_hint(name, table)}")
            return None
        self.tables.setdefault(section, {})["name"] = name
        return self.options(section, table[name], name)


def resolve(tables: Mapping[str, Mapping[str, Any]], registry: Registry) -> RunConfig:
    """Check a configuration and fill in what it leaves open.

    Where the user set nothing, the backbone's suggestions come before an option's default.

    Args:
        tables: Options by section; strings may stand for numbers, as on a command line.
        registry: Where components are looked up.

    Raises:
        UserError: Something is wrong; one line for every mistake.
    """
    reader = _Reader(tables, registry)
    reader.errors += [f"{s}: unknown section, {_hint(s, SECTIONS)}" for s in tables if s not in SECTIONS]
    given = reader.prompts()
    backbone = reader.component("backbone", "backbone", "unet")
    suggested, conditional = _suggestions(backbone, given)
    reward = reader.reward("reward", "clip-score", suggested)
    prompts = given or (suggested.prompts if conditional or _reads_prompts(reward) else ()) or ("",)
    heldout = reader.reward("heldout", _judge(registry, suggested, reward, prompts), suggested)
    reg = reader.component("reg", "regularizer", "w2")
    weighting = reader.named("weighting", WEIGHTINGS, "advantage")
    sampler = reader.named("sampler", SAMPLERS, "euler")
    trainer = reader.component("train", "trainer", "orw-cfm")

    if backbone and len(prompts) > 1 and not conditional:
        reader.errors.append(
            f"reward.prompt: {len(prompts)} prompts, but backbone '{backbone.name}' is unconditional here: it could "
            "not tell which one to draw; give one prompt, or a conditional backbone (backbone.conditional=true)"
        )
    reader.errors += _misfits(backbone, reward, heldout, trainer)
    if reader.errors:
        raise UserError("\n".join(reader.errors))
    assert backbone
    assert reward
    assert reg
    assert trainer
    return RunConfig(backbone, reward, heldout, reg, trainer, weighting, sampler, prompts)


def _suggestions(backbone: Choice | None, given: tuple[str, ...]) -> tuple[Suggestions, bool]:
    """What the backbone suggests, and whether prompts condition it."""
    spec = backbone.plugin.spec if backbone else None
    if backbone is None or not isinstance(spec, BackboneSpec):
        return Suggestions(), False
    return spec.suggest(backbone.config, given), spec.conditional(backbone.config)


def _judge(registry: Registry, suggested: Suggestions, reward: Choice | None, prompts: tuple[str, ...]) -> str:
    """The first suggested judge that is installed and not the reward itself; none without a prompt to judge by."""
    if prompts == ("",):
        return "none"
    others = {plugin.name for plugin in registry.plugins if plugin.kind == "reward"}
    return next((j for j in suggested.heldout if j in others and (reward is None or j != reward.name)), "none")


def _misfits(
    backbone: Choice | None, reward: Choice | None, heldout: Choice | None, trainer: Choice | None
) -> list[str]:
    """Components that do not fit each other."""
    errors = []
    for section, choice in (("reward", reward), ("heldout", heldout)):
        if choice and backbone and _accepts_points(choice.plugin.spec) and not _produces_points(backbone.plugin.spec):
            errors.append(
                f"{section}.name: '{choice.name}' scores points, but backbone '{backbone.name}' produces images"
            )
    if trainer and isinstance(trainer.config, TrainConfig):
        samples, group = trainer.config.samples, trainer.config.group
        if group and samples % group:
            errors.append(f"train.group: {samples} samples (train.samples) are not a multiple of {group}")
    return errors


def _reads_prompts(reward: Choice | None) -> bool:
    spec = reward.plugin.spec if reward else None
    return isinstance(spec, RewardSpec) and spec.reads_prompts


def _accepts_points(spec: Spec) -> bool:
    return isinstance(spec, RewardSpec) and spec.accepts == "points"


def _produces_points(spec: Spec) -> bool:
    return isinstance(spec, BackboneSpec) and spec.produces == "points"


def _hint(name: str, known: Any) -> str:
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f"did you mean '{close[0]}'?" if close else f"known: {', '.join(known)}"


def _explain(section: str, owner: str, model: type[ComponentConfig], error: Any) -> str:
    """One line for one of pydantic's errors."""
    option = ".".join(str(part) for part in error["loc"]) or "options"
    if error["type"] == "extra_forbidden":
        known = [*model.model_fields, *(["prompt"] if section == "reward" else [])]
        return f"{section}.{option}: unknown option of '{owner}', {_hint(option, known)}"
    message = error["msg"].removeprefix("Value error, ")
    got = "" if error["type"] == "missing" else f", got {error['input']!r}"
    return f"{section}.{option}: {message[0].lower()}{message[1:]}{got}"
