"""From a configuration to the objects of a run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from orwcfm_core.backbone import Backbone
from orwcfm_core.config import JudgeChoice, JudgeConfig, RegChoice, RunConfig, TauConfig
from orwcfm_core.errors import UserError
from orwcfm_core.events import Callbacks
from orwcfm_core.objective import Objective, Term
from orwcfm_core.plugin import RewardSpec
from orwcfm_core.regularizer import Anchor, Regularizer, Sum
from orwcfm_core.reward import Judge, OnError, Reward
from orwcfm_core.sampler import build_sampler
from orwcfm_core.schedule import Knob, Schedules, alpha_schedule, ema_alpha_schedule, tau_schedule
from orwcfm_core.trainer import Components, State, Trainer
from orwcfm_core.weighting import Weighting, build_weighting

__all__ = ["assemble", "build_callbacks", "build_judge", "choose_device"]


def assemble(config: RunConfig) -> tuple[Trainer, State]:
    """Build all components and the state before the first round.

    Raises:
        UserError: A component cannot be built, or the device does not exist.
    """
    torch.set_flush_denormal(True)
    if config.train.threads:
        torch.set_num_threads(config.train.threads)
    # Seeds what a component initialises itself; everything after that draws from the state's own generator.
    torch.manual_seed(config.train.seed)
    backbone = config.backbone.plugin.build(config.backbone.config, Backbone)
    terms = [
        Term(**_judge(choice), **choice.term.model_dump(exclude={*JudgeConfig.model_fields}))
        for choice in config.rewards
    ]
    heldout = [build_judge(choice) for choice in config.heldout]
    regularizers = {choice.name: _regularizer(choice) for choice in config.regs}
    weighting = build_weighting(config.weighting)
    components = Components(
        backbone=backbone,
        objective=Objective(terms, config.combine.combine),
        regularizer=Sum(regularizers) if len(regularizers) > 1 else regularizers[config.regs[0].name],
        weighting=weighting,
        sampler=build_sampler(config.sampler),
        prompts=config.prompts,
        heldout=heldout,
        schedules=_schedules(config, regularizers, weighting),
    )
    trainer = config.trainer.plugin.build(config.trainer.config, Trainer)
    device, sampler = choose_device(config.train.device), config.sampler
    return trainer, trainer.start(components, sampler.ema, device, sampler.ema_growth)


def build_callbacks(config: RunConfig) -> Callbacks:
    """Build what is told of the run's events.

    Raises:
        UserError: A callback cannot be built, or has hooks that do not exist.
    """
    return Callbacks({choice.name: choice.plugin.build(choice.config, object) for choice in config.callbacks})


def build_judge(choice: JudgeChoice) -> Judge:
    """Build a reward as one that judges.

    Raises:
        UserError: It cannot be built.
    """
    return Judge(**_judge(choice))


def _regularizer(choice: RegChoice) -> Regularizer:
    """A regularizer that knows what it holds to."""
    regularizer = choice.plugin.build(choice.config, Regularizer)
    regularizer.label = str(choice.plugin)
    regularizer.anchor = Anchor.named(choice.term.anchor, choice.term.ema_alpha)
    return regularizer


def _schedules(config: RunConfig, regularizers: Mapping[str, Regularizer], weighting: Weighting) -> Schedules:
    """What changes from round to round: `alpha` and `ema_alpha`, or `alpha_<name>` of several, and `tau`."""
    found = []
    growth = config.sampler.ema_growth if config.sampler.ema else 0.0
    for choice in config.regs:
        regularizer, label = regularizers[choice.name], "" if len(config.regs) == 1 else f"_{choice.name}"
        schedule = alpha_schedule(choice.term, regularizer.alpha)
        found += [Knob(f"alpha{label}", regularizer, "alpha", schedule)] if schedule else []
        schedule = ema_alpha_schedule(choice.term, growth, config.train.rounds)
        found += [Knob(f"ema_alpha{label}", regularizer.anchor, "ema_alpha", schedule)] if schedule else []
    if isinstance(config.weighting, TauConfig):
        schedule = tau_schedule(config.weighting)
        found += [Knob("tau", weighting, "tau", schedule)] if schedule else []
    return Schedules(found)


def _judge(choice: JudgeChoice) -> dict[str, Any]:
    """A reward as the run knows it: arguments of `Judge`."""
    spec = choice.plugin.spec
    assert isinstance(spec, RewardSpec)
    return {
        "name": choice.name,
        "reward": choice.plugin.build(choice.config, Reward),
        "points": spec.accepts == "points",
        "probability": spec.probability,
        "on_error": OnError.parse(choice.term.on_error),
    }


def choose_device(name: str) -> torch.device:
    """The device of this name, if it works."""
    accelerator = torch.accelerator.current_accelerator(check_available=True)
    try:
        device = (accelerator or torch.device("cpu")) if name == "auto" else torch.device(name)
        torch.zeros(1, device=device)
        torch.Generator(device)
    except (RuntimeError, AssertionError) as e:
        reason = str(e).splitlines()[0]
        raise UserError(f"train.device: '{name}' cannot be used here: {reason}") from e
    return device
