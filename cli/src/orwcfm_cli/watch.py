"""Watches a run while it goes on, and says when it is going wrong and what to change."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

__all__ = ["CHOSEN", "Watch", "quality"]

SMOOTHED = 5
"""Rounds that a judgement looks back on: one round's numbers are noisy."""
LOST = 0.5
"""Diversity below this share of what an ideal run would keep is a collapse."""
CHOSEN = "top-k"
"""The weighting whose effective sample size is its fraction, and says nothing."""
FEW = 0.02
"""An effective sample size below this share of the batch lets a handful of samples decide."""
FAR = 10.0
"""Growth of the velocity divergence, between two looks back, that is a blow-up."""


def quality(rounds: Sequence[Mapping[str, Any]]) -> float | None:
    """How good the policy is of late: its first judge's mean, else the reward's; None where neither is known.

    Args:
        rounds: Lines of metrics.jsonl, up to now.
    """
    keys = [key for key in (rounds[-1] if rounds else {}) if key.startswith("heldout_")] or ["reward_mean"]
    values = [value for row in rounds[-SMOOTHED:] if (value := known(row, keys[0])) is not None]
    return fmean(values) if values else None


def known(row: Mapping[str, Any], key: str) -> float | None:
    """A metric; None where it is missing, or nothing to count with: the file may have been edited."""
    value: Any = row.get(key)
    # An integer may be larger than any float.
    counts = type(value) in (int, float) and -sys.float_info.max <= value <= sys.float_info.max
    return float(value) if counts else None


class Watch:
    """Looks at each round and warns once of each thing.

    Args:
        reference: What the reference measured.
        rounds: Lines of metrics.jsonl; the run goes on adding to this list.
        weighting: What turns scores into weights.
    """

    def __init__(self, reference: Mapping[str, Any], rounds: Sequence[Mapping[str, Any]], weighting: str) -> None:
        # Whoever draws nothing but what satisfies keeps this much.
        satisfying = known(reference, "satisfying_diversity")
        self.kept = satisfying or known(reference, "diversity")
        self.whose = "the pre-trained model's own good samples have" if satisfying else "the pre-trained model has"
        self.rounds = rounds
        self.weighting = weighting
        self.warned: set[str] = set()

    def look(self) -> list[str]:
        """What the newest round gives new cause to warn of."""
        found = {"diversity": self._diversity(), "ess": self._ess(), "divergence": self._divergence()}
        new = {what: text for what, text in found.items() if text and what not in self.warned}
        self.warned |= new.keys()
        return [f"warning: round {self.rounds[-1]['round']}: {text}" for text in new.values()]

    def _late(self, key: str, before: int = 0) -> float | None:
        """Mean of a metric over the last rounds; None before there are enough."""
        end = len(self.rounds) - before
        values = [known(row, key) for row in self.rounds[max(0, end - SMOOTHED) : end]]
        found = [value for value in values if value is not None]
        return fmean(found) if len(found) == SMOOTHED else None

    def _diversity(self) -> str:
        late = self._late("diversity")
        if late is None or not self.kept or late >= LOST * self.kept:
            return ""
        return (
            f"diversity fell to {late:.2f}, where {self.whose} {self.kept:.2f}: it is collapsing; raise reg.alpha "
            "(--alpha), or use --weighting advantage"
        )

    def _ess(self) -> str:
        late = self._late("ess")
        # Where all weights are 0, all scores are alike, and none is carried away by a few.
        if not late or late >= FEW or self.weighting == CHOSEN:
            return ""
        return f"{100 * late:.1f} % of the samples carry all the weight; lower weighting.tau (--tau)"

    def _divergence(self) -> str:
        late, before = self._late("velocity_divergence"), self._late("velocity_divergence", before=2 * SMOOTHED)
        if late is None or not before or late < FAR * before or len(self.rounds) < 6 * SMOOTHED:
            return ""
        return f"velocity divergence grew from {before:.2g} to {late:.2g}; raise reg.alpha (--alpha) or lower train.lr"
