"""The model that a run made, as its checkpoint has it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import click
import torch
from orwcfm_core.backbone import Backbone
from orwcfm_core.checkpoint import best_checkpoint, load_sampling_policy, newest_checkpoint, round_of
from orwcfm_core.config import RunConfig
from orwcfm_core.errors import UserError
from orwcfm_core.memory import fitting
from orwcfm_core.sampler import build_sampler
from orwcfm_core.trainer import autocast, choose_precision, draw
from torch import Tensor

from orwcfm_cli.assemble import choose_device
from orwcfm_cli.folder import RunFolder

__all__ = ["Trained"]


@dataclass(frozen=True)
class Trained:
    """A backbone whose policy is what a run samples from.

    Args:
        config: The run's configuration.
        backbone: Policy and reference.
        device: Where they are.
        round: Rounds that the policy was trained.
    """

    config: RunConfig
    backbone: Backbone
    device: torch.device
    round: int

    @classmethod
    def load(cls, folder: RunFolder, config: RunConfig, checkpoint: str = "newest") -> Self:
        """Read it, to the run's device, or else to the best one that there is.

        Args:
            folder: The run's folder.
            config: Its configuration.
            checkpoint: `newest`, or `best`: that of the best quality.

        Raises:
            UserError: There is no such checkpoint, or it is of another model.
        """
        torch.set_flush_denormal(True)
        try:
            device = choose_device(config.train.device)
        except UserError as e:
            device = choose_device("auto")
            click.echo(f"note: {e}; using {device} instead", err=True)
        if folder.unstarted:
            raise UserError(f"{folder.path} was stopped before anything was saved; first orwcfm resume {folder.path}")
        newest = newest_checkpoint(folder.checkpoints)
        chosen = newest if checkpoint == "newest" else best_checkpoint(folder.checkpoints)
        if chosen is None:
            raise UserError(f"--checkpoint best: no intact one in {folder.checkpoints} has a quality; use newest")
        # As in the run: what a backbone draws for itself, besides its parameters, is in no checkpoint.
        torch.manual_seed(config.train.seed)
        backbone = config.backbone.plugin.build(config.backbone.config, Backbone)
        load_sampling_policy(backbone.policy(), chosen)
        return cls(config, backbone.to(device), device, round_of(chosen))

    def autocast(self) -> torch.autocast:
        """Compute in the run's precision; what a GPU trained in fp16 is drawn from anywhere."""
        asked = self.config.train.precision
        precision = "auto" if asked == "fp16" and self.device.type == "cpu" else asked
        return autocast(self.device, choose_precision(precision, self.device))

    def draw(self, reference: bool, noise: Tensor, prompts: Sequence[str]) -> Tensor:
        """Sample with the run's sampler.

        Args:
            reference: From the reference instead of the policy.
            noise: `(B, *)`.
            prompts: B strings.

        Returns:
            Samples, `(B, *)`.
        """
        field = self.backbone.reference() if reference else self.backbone.policy()
        sampler = build_sampler(self.config.sampler)
        with self.autocast():
            drawn, _ = fitting(
                lambda size: draw(self.backbone, field, sampler, noise, prompts, size), self.config.train.micro_batch
            )
        return drawn[0]
