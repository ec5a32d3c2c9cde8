"""What is maximised: a score for each image."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Self

import torch
from torch import Tensor

from orwcfm_core.errors import RunError
from orwcfm_core.registry import blame

__all__ = ["Judge", "Reward", "Scores", "score"]


class Scores(NamedTuple):
    """Scores of a batch.

    Args:
        values: One per image, `(B,)`.
        valid: Which of them could be scored, `(B,)` booleans; None means all. An invalid sample gets weight 0, and
            its value is never read.
    """

    values: Tensor
    valid: Tensor | None = None


class Reward(ABC):
    """Scores images; larger is better."""

    @abstractmethod
    def score(self, images: Tensor, prompts: Sequence[str]) -> Scores:
        """Score a batch.

        Args:
            images: `(B, C, H, W)` in [0, 1] (a reward that accepts points: samples `(B, d)`).
            prompts: The prompt of each image, B strings.
        """

    def features(self, images: Tensor) -> Tensor | None:
        """Embed images for measuring diversity, `(B, D)`; None if this reward has no such space."""
        return None

    def to(self, device: torch.device) -> Self:
        """Move what it computes with to a device."""
        return self

    def describe(self) -> str:
        """One line for the user: which model scores, with what options."""
        return type(self).__name__


@dataclass(frozen=True)
class Judge:
    """A reward as a run knows it: under its name, with what its plugin declares.

    Args:
        name: For messages and metrics.
        reward: The reward.
        points: It scores samples as they are, instead of images.
        probability: Its scores are probabilities.
    """

    name: str
    reward: Reward
    points: bool = False
    probability: bool = False

    @property
    def has_features(self) -> bool:
        """Whether it embeds images."""
        return type(self.reward).features is not Reward.features

    def score(self, x_1: Tensor, images: Tensor, prompts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Score samples; see `score`.

        Args:
            x_1: Samples, `(B, *)`.
            images: The same as images, `(B, C, H, W)` in [0, 1].
            prompts: B strings.
        """
        return score(self.name, self.reward, x_1 if self.points else images, prompts)


def score(name: str, reward: Reward, images: Tensor, prompts: Sequence[str]) -> tuple[Tensor, Tensor]:
    """Score a batch and check what comes back.

    Args:
        name: The reward's name, for messages.
        reward: The reward.
        images: `(B, C, H, W)` in [0, 1], or points `(B, d)`.
        prompts: B strings.

    Returns:
        Values, `(B,)` float32, 0 where invalid, and the mask, `(B,)`; both on the device of `images`.

    Raises:
        RunError: The reward raised, or returned something else than B finite numbers.
    """
    with blame(f"reward '{name}'", RunError), torch.no_grad():
        scores = reward.score(images, prompts)
        values, valid = scores if isinstance(scores, Scores) else (scores, None)
        expected = (images.shape[0],)
        if not isinstance(values, Tensor) or values.shape != expected:
            got = f"shape {tuple(values.shape)}" if isinstance(values, Tensor) else f"a {type(values).__name__}"
            raise RunError(f"returned {got}, expected one score per image, shape {expected}")
        values = values.detach().to(images.device, torch.float32)
        valid = torch.ones_like(values, dtype=torch.bool) if valid is None else valid.to(images.device)
        if valid.shape != expected or valid.dtype != torch.bool:
            raise RunError(f"returned a mask of shape {tuple(valid.shape)} {valid.dtype}, expected {expected} booleans")
        bad = int((valid & ~values.isfinite()).sum())
        if bad:
            raise RunError(
                f"returned NaN or infinity for {bad} of {len(values)} images; "
                "mark what cannot be scored as invalid in Scores.valid"
            )
    return torch.where(valid, values, 0.0), valid
