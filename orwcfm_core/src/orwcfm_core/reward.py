"""What is maximised: a score for each image."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Self

import torch
from torch import Tensor

from orwcfm_core.errors import RunError
from orwcfm_core.registry import blame

__all__ = ["Judge", "OnError", "Reward", "Scores", "score"]

log = logging.getLogger(__name__)


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
        """Embed what `score` gets for measuring diversity, `(B, D)`; None if this reward has no such space."""
        return None

    @property
    def has_features(self) -> bool:
        """Whether `features` embeds images."""
        return type(self).features is not Reward.features

    def to(self, device: torch.device) -> Self:
        """Move what it computes with to a device."""
        return self

    def describe(self) -> str:
        """One line for the user: which model scores, with what options."""
        return type(self).__name__


@dataclass(frozen=True)
class OnError:
    """What happens when a reward fails: it raises, dies, takes too long, or returns what are not B finite numbers.

    Args:
        action: `fail` ends the run, `drop` gives the samples in question weight 0, `penalise` gives them a score.
        score: The score of `penalise`.
        retries: How often a batch is tried again before that.
    """

    action: str = "fail"
    score: float = 0.0
    retries: int = 0

    @classmethod
    def parse(cls, text: str) -> OnError:
        """Read `fail`, `drop`, `retry(n)` (which then fails) or `penalise(score)`."""
        action, _, number = text.rstrip(")").partition("(")
        if action == "retry":
            return cls(retries=int(number))
        return cls(action, float(number or 0))


@dataclass(frozen=True)
class Judge:
    """A reward as a run knows it: under its name, with what its plugin declares.

    Args:
        name: For messages and metrics.
        reward: The reward.
        points: It scores samples as they are, instead of images.
        probability: Its scores are probabilities.
        on_error: What happens when it fails.
    """

    name: str
    reward: Reward
    points: bool = False
    probability: bool = False
    on_error: OnError = OnError()

    @property
    def has_features(self) -> bool:
        """Whether it embeds images."""
        return self.reward.has_features

    def features(self, x_1: Tensor, images: Tensor) -> Tensor | None:
        """Embed samples as `(B, D)`; None if the reward has no such space.

        Args:
            x_1: Samples, `(B, *)`.
            images: The same as images, `(B, C, H, W)` in [0, 1].

        Raises:
            RunError: What it returns has another shape.
        """
        found = self.reward.features(x_1 if self.points else images)
        if found is not None and (not isinstance(found, Tensor) or found.ndim != 2 or len(found) != len(images)):
            shape = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
            raise RunError(f"reward '{self.name}': its features have shape {shape}, expected ({len(images)}, D)")
        return found

    def score(self, x_1: Tensor, images: Tensor, prompts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Score samples; see `score`.

        Args:
            x_1: Samples, `(B, *)`.
            images: The same as images, `(B, C, H, W)` in [0, 1].
            prompts: B strings.
        """
        return score(self.name, self.reward, x_1 if self.points else images, prompts, self.on_error)


def score(
    name: str, reward: Reward, images: Tensor, prompts: Sequence[str], on_error: OnError = OnError()
) -> tuple[Tensor, Tensor]:
    """Score a batch and check what comes back.

    Args:
        name: The reward's name, for messages.
        reward: The reward.
        images: `(B, C, H, W)` in [0, 1], or points `(B, d)`.
        prompts: B strings.
        on_error: What happens when it fails.

    Returns:
        Values, `(B,)` float32, 0 where invalid, and the mask, `(B,)`; both on the device of `images`.

    Raises:
        UserError: The reward says that its user made a mistake.
        RunError: It failed, and `on_error` lets that end the run.
    """
    strict = on_error.action == "fail"
    for left in reversed(range(on_error.retries + 1)):
        try:
            values, valid = _answer(name, reward, images, prompts)
            bad = valid & ~values.isfinite()
            if not bad.any():
                break
            text = f"reward '{name}': returned NaN or infinity for {int(bad.sum())} of {len(values)} images"
            if strict:
                raise RunError(f"{text}; mark what cannot be scored as invalid in Scores.valid")
            log.warning("%s: %s", text, _consequence(on_error))
            break
        except RunError as e:
            if left:
                log.warning("%s; trying again", str(e))
            elif strict:
                raise
            else:
                log.warning("%s: %s", str(e), _consequence(on_error))
                values = torch.zeros(len(images), device=images.device)
                valid = bad = torch.ones_like(values, dtype=torch.bool)
    if on_error.action == "penalise":
        values = torch.where(bad, on_error.score, values)
    else:
        valid = valid & ~bad
    return torch.where(valid, values, 0.0), valid


def _consequence(on_error: OnError) -> str:
    return "they are left out" if on_error.action == "drop" else f"they score {on_error.score:g}"


def _answer(name: str, reward: Reward, images: Tensor, prompts: Sequence[str]) -> tuple[Tensor, Tensor]:
    """What a reward returns, `(B,)` numbers and `(B,)` booleans; the numbers need not be finite."""
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
    return values, valid
