"""From a configuration to the objects of a run."""

from __future__ import annotations

import torch
from orwcfm_core.backbone import Backbone
from orwcfm_core.config import RunConfig
from orwcfm_core.errors import UserError
from orwcfm_core.plugin import RewardSpec
from orwcfm_core.regularizer import Regularizer
from orwcfm_core.reward import Reward
from orwcfm_core.sampler import build_sampler
from orwcfm_core.trainer import Components, State, Trainer
from orwcfm_core.weighting import build_weighting

__all__ = ["assemble", "choose_device"]


def assemble(config: RunConfig) -> tuple[Trainer, State]:
    """Build all components and the state before the first round.

    Raises:
        UserError: A component cannot be built, or the device does not exist.
    """
    torch.set_flush_denormal(True)
    # Seeds what a component initialises itself; everything after that draws from the state's own generator.
    torch.manual_seed(config.train.seed)
    backbone = config.backbone.plugin.build(config.backbone.config, Backbone)
    reward = config.reward.plugin.build(config.reward.config, Reward)
    heldout = {}
    if config.heldout:
        heldout[config.heldout.name] = config.heldout.plugin.build(config.heldout.config, Reward)
    choices = [choice.plugin.spec for choice in (config.reward, config.heldout) if choice]
    specs = [spec for spec in choices if isinstance(spec, RewardSpec)]
    components = Components(
        backbone=backbone,
        reward=reward,
        regularizer=config.reg.plugin.build(config.reg.config, Regularizer),
        weighting=build_weighting(config.weighting),
        sampler=build_sampler(config.sampler),
        prompts=config.prompts,
        reward_name=config.reward.name,
        heldout=heldout,
        points=[spec.name for spec in specs if spec.accepts == "points"],
        probabilities=[spec.name for spec in specs if spec.value_range == (0.0, 1.0)],
        feature_space=next(iter(heldout.values()), reward),
    )
    trainer = config.trainer.plugin.build(config.trainer.config, Trainer)
    return trainer, trainer.start(components, config.sampler.ema, choose_device(config.train.device))


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
