"""Draws pictures from a policy, always from noise of its own, so that training is not disturbed."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from orwcfm_core.backbone import Backbone
from orwcfm_core.config import RunConfig
from orwcfm_core.trainer import State

from orwcfm_cli.folder import RunFolder
from orwcfm_cli.pictures import save_grid

__all__ = ["noise_of", "save_round", "shared"]

_GRID = 64
"""Pictures in a grid."""


def save_round(state: State, folder: RunFolder, config: RunConfig) -> None:
    """Draw the grid of this round, from the same noise every time."""
    backbone = state.components.backbone
    noise = noise_of(backbone, _GRID, config.train.seed, state.device)
    x_1, _ = state.sample(noise, shared(config.prompts, _GRID))
    save_grid(folder.grid(state.round), backbone.to_images(x_1).cpu())


def noise_of(backbone: Backbone, count: int, seed: int, device: torch.device) -> torch.Tensor:
    """Standard normal noise of a seed, `(count, *)`."""
    generator = torch.Generator(device).manual_seed(seed)
    return torch.randn((count, *backbone.sample_shape), generator=generator, device=device)


def shared(prompts: Sequence[str], count: int) -> list[str]:
    """Prompts for `count` pictures, in turn."""
    return [prompts[i % len(prompts)] for i in range(count)]
