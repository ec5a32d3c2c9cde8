"""A reward that is constant within each component of the mixture."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

import torch
from orwcfm_core.errors import UserError
from orwcfm_core.reward import Reward, Scores
from torch import Tensor

from orwcfm_backbone_gmm.mixture import place_means
from orwcfm_backbone_gmm.plugin import ComponentRewardConfig

__all__ = ["ComponentReward"]


class ComponentReward(Reward):
    """`r(x) = values[k]`, k the component whose mean is nearest to x.

    Args:
        config: Geometry of the mixture, and the values.
    """

    def __init__(self, config: ComponentRewardConfig) -> None:
        self.means = place_means(config.dim, config.components, config.radius)
        self.values = torch.zeros(config.components)
        self.values[: len(config.values)] = torch.tensor(config.values)

    def score(self, images: Tensor, prompts: Sequence[str]) -> Scores:
        """Score points `(B, d)`; one that is not finite cannot be scored."""
        if images.ndim != 2 or images.shape[1] != self.means.shape[1]:
            raise UserError(
                f"dim: expected that of the samples, of shape {(*images.shape,)}, got {self.means.shape[1]}; leave it "
                "out, and the backbone's is taken"
            )
        distance = (images[:, None] - self.means.to(images)).square().sum(2)
        return Scores(self.values.to(images.device)[distance.argmin(1)], images.isfinite().all(1))

    def to(self, device: torch.device) -> Self:
        self.means, self.values = self.means.to(device), self.values.to(device)
        return self

    def describe(self) -> str:
        return f"component values {', '.join(f'{value:g}' for value in self.values.tolist())}"
