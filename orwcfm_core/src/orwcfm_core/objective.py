"""What a run maximises: one reward, or several brought to a scale and combined."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from orwcfm_core.errors import UserError
from orwcfm_core.reward import Judge

__all__ = ["Judged", "Objective", "Scored", "Term"]

Judged = Mapping[str, tuple[Tensor, Tensor]]
"""By reward, its scores `(B,)` and which of them are valid, `(B,)`."""


@dataclass(frozen=True)
class Term(Judge):
    """A reward that is trained on.

    Args:
        weight: Its weight w among the others.
        normalise: `none`, `z-score` (of the last `window` scores) or `per-prompt` (of this batch).
        window: Scores that `z-score` looks back on.
    """

    weight: float = 1.0
    normalise: str = "none"
    window: int = 1024


class Scored(NamedTuple):
    """What an objective made of a batch.

    Args:
        raw: Scores by reward, `(B,)`.
        valid: Which samples all rewards could score, `(B,)`.
        values: Combined scores on a scale that never changes, to be compared between rounds, `(B,)`.
        signal: Combined scores as they are normalised for training, `(B,)`.
    """

    raw: Mapping[str, Tensor]
    valid: Tensor
    values: Tensor
    signal: Tensor


class Objective:
    """Combines the scores r_i of rewards, of weights w_i, into one.

    Each reward is normalised first: z_i = r_i, or (r_i - mean) / std. Mean and standard deviation are those of the last
    scores (`z-score`), of the batch's scores for the same prompt (`per-prompt`), or, where values are to be compared
    between rounds, of the first batch that was scored: in a run, the reference's samples (std 1 if they are all alike).
    Then

        sum: sum_i w_i z_i        product: prod_i z_i^w_i        minimum: min_i w_i z_i

    Args:
        terms: At least one.
        combine: `sum`, `product` or `minimum`.
    """

    def __init__(self, terms: Sequence[Term], combine: str = "sum") -> None:
        self.terms = terms
        self.combine = combine
        self._normalised = [term for term in terms if term.normalise != "none"]
        self._first: dict[str, tuple[float, float]] = {}
        self._last: dict[str, list[float]] = {}

    @property
    def composed(self) -> bool:
        """Whether the combined scores are other than those of a single reward."""
        return len(self.terms) > 1 or self.terms[0].normalise != "none" or self.terms[0].weight != 1

    def score(self, x_1: Tensor, images: Tensor, prompts: Sequence[str]) -> Scored:
        """Score a batch; the first one sets the scale.

        Args:
            x_1: Samples, `(B, *)`.
            images: The same as images, `(B, C, H, W)`.
            prompts: B strings.

        Raises:
            RunError: A reward failed.
            UserError: A product has a score below 0.
        """
        return self.compose([self.judge(x_1, images, prompts)], prompts)

    def judge(self, x_1: Tensor, images: Tensor, prompts: Sequence[str]) -> Judged:
        """What each reward says of a batch or a part of it; arguments as in `score`."""
        return {term.name: term.score(x_1, images, prompts) for term in self.terms}

    def compose(self, parts: Sequence[Judged], prompts: Sequence[str]) -> Scored:
        """Normalise and combine what the rewards said.

        Args:
            parts: What `judge` returned for the parts of a batch, in order.
            prompts: Those of the whole batch, B strings.
        """
        found = {
            term.name: [torch.cat(column) for column in zip(*(part[term.name] for part in parts), strict=True)]
            for term in self.terms
        }
        raw = {name: scores for name, (scores, _) in found.items()}
        valid = torch.stack([valid for _, valid in found.values()]).all(0)
        if not self._first and valid.any():
            self._first = {term.name: _moments(raw[term.name][valid]) for term in self._normalised}
            self.observe(raw, valid)
        values = self._combined({t.name: self._on_first_scale(t, raw[t.name]) for t in self.terms})
        signal = self._combined({t.name: self._on_training_scale(t, raw[t.name], valid, prompts) for t in self.terms})
        # Weights and powers may leave float32 where no score does.
        return Scored(raw, valid & values.isfinite() & signal.isfinite(), values, signal)

    def observe(self, raw: Mapping[str, Tensor], valid: Tensor) -> None:
        """Take a round's scores into the windows of `z-score`.

        Args:
            raw: Scores by reward, `(B,)`.
            valid: Which of them count, `(B,)`.
        """
        for term in self._normalised:
            seen = self._last.get(term.name, []) + raw[term.name][valid].tolist()
            self._last[term.name] = seen[-term.window :]

    def state(self) -> dict[str, Any]:
        """What must survive a resume; JSON holds it exactly."""
        return {"first": {name: list(moments) for name, moments in self._first.items()}, "last": self._last}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Take back what `state` returned."""
        self._first = {name: (mean, std) for name, (mean, std) in state["first"].items()}
        self._last = {name: list(scores) for name, scores in state["last"].items()}

    def _on_first_scale(self, term: Term, r: Tensor) -> Tensor:
        if term.normalise == "none":
            return r
        mean, std = self._first.get(term.name, (0.0, 0.0))
        # Where the first scores did not vary, later ones may, and must show.
        return _standardised(r, mean, std) if _is_spread(mean, std) else r - mean

    def _on_training_scale(self, term: Term, r: Tensor, valid: Tensor, prompts: Sequence[str]) -> Tensor:
        if term.normalise == "z-score":
            return _standardised(r, *_moments(torch.tensor(self._last.get(term.name, []))))
        if term.normalise == "none":
            return r
        z = torch.zeros_like(r)
        for prompt in dict.fromkeys(prompts):
            same = torch.tensor([other == prompt for other in prompts], device=r.device)
            z[same] = _standardised(r[same], *_moments(r[same & valid]))
        return z

    def _combined(self, z: Mapping[str, Tensor]) -> Tensor:
        """One score per sample, `(B,)`, from those of each reward."""
        if self.combine == "product":
            return torch.stack([_not_negative(term, z[term.name]) ** term.weight for term in self.terms]).prod(0)
        weighted = torch.stack([term.weight * z[term.name] for term in self.terms])
        return weighted.sum(0) if self.combine == "sum" else weighted.amin(0)


def _moments(scores: Tensor) -> tuple[float, float]:
    """Mean and standard deviation; of nothing, 0 and 0."""
    scores = scores.cpu().double()
    return (float(scores.mean()), float(scores.std(correction=0))) if len(scores) else (0.0, 0.0)


def _standardised(r: Tensor, mean: float, std: float) -> Tensor:
    """`(r - mean) / std`; 0 where the spread is no more than rounding."""
    return (r - mean) / std if _is_spread(mean, std) else torch.zeros_like(r)


def _is_spread(mean: float, std: float) -> bool:
    return std > 1e-6 * abs(mean)


def _not_negative(term: Term, z: Tensor) -> Tensor:
    if (z < 0).any():
        raise UserError(
            f"reward.combine: a product needs scores of at least 0, and reward '{term.name}' gave "
            f"{float(z.min()):.4g}; use sum or minimum"
        )
    return z
