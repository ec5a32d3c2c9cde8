"""Says at the start of a run how several rewards compare, so that none drowns the others unnoticed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from orwcfm_core.config import RunConfig

__all__ = ["scale_report"]

DROWNED = 10
"""A reward is drowned by another whose weighted spread is this many times its own."""


def scale_report(reference: Mapping[str, Any], config: RunConfig) -> list[str]:
    """The scales of several rewards on the reference's samples, as lines for the user.

    Args:
        reference: From `evaluate`.
        config: The run's configuration.

    Returns:
        A line per reward and per pair of rewards, and a warning where one drowns another; none for a single reward.
    """
    measured: Mapping[str, Mapping[str, float | None]] = reference.get("rewards", {})
    if len(measured) < 2:
        return []
    width = max(map(len, measured))
    lines = ["rewards on the reference's samples:"]
    spreads = {}
    for reward in config.rewards:
        mean, std = measured[reward.name]["mean"], measured[reward.name]["std"]
        normalised = reward.term.normalise != "none"
        spreads[reward.name] = abs(reward.term.weight) * (1.0 if normalised and std else std or 0.0)
        lines.append(
            f"  {reward.name:<{width}}  mean {_number(mean)}  spread {_number(std)}  weight {reward.term.weight:g}"
            f"  normalised {reward.term.normalise}  weighted spread {_number(spreads[reward.name])}"
        )
    for first, others in reference.get("correlations", {}).items():
        lines += [f"  correlation of {first} and {second}: {_number(value)}" for second, value in others.items()]
    return lines + _warnings(spreads, config)


def _warnings(spreads: Mapping[str, float], config: RunConfig) -> list[str]:
    loudest = max(spreads, key=lambda name: spreads[name])
    drowned = [name for name, spread in spreads.items() if spread * DROWNED < spreads[loudest]]
    advice = "set reward.normalise=z-score, or other weights"
    if config.combine.combine != "sum" or not drowned:
        return []
    return [f"warning: {loudest} drowns {', '.join(drowned)}: {advice}"]


def _number(value: float | None) -> str:
    return "none" if value is None else f"{value:.3g}"
