"""Strengths that change from round to round: of a regularizer's anchors, tau of a weighting. No torch in here."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from orwcfm_core.config import RegConfig, TauConfig

__all__ = [
    "Between",
    "Cosine",
    "Growing",
    "Knob",
    "Linear",
    "Schedule",
    "Schedules",
    "Target",
    "alpha_schedule",
    "ema_alpha_schedule",
    "tau_schedule",
]


class Schedule(ABC):
    """A number that changes from round to round."""

    @abstractmethod
    def at(self, progress: float) -> float:
        """The number of a round.

        Args:
            progress: 0 in the first round of a run, 1 in the last.
        """

    def observe(self, divergence: float | None) -> None:
        """Take note of the velocity divergence of a round; None if there was no update."""
        return

    def state(self) -> dict[str, float]:
        """What must survive a resume; JSON holds it exactly."""
        return {}

    def load_state(self, state: Mapping[str, float]) -> None:
        """Take back what `state` returned."""
        return


@dataclass(frozen=True)
class Between(Schedule):
    """From a number to another.

    Args:
        start: In the first round.
        end: In the last round.
    """

    start: float
    end: float


class Linear(Between):
    """`start + (end - start) p`, p being the progress."""

    def at(self, progress: float) -> float:
        return self.start + (self.end - self.start) * progress


class Cosine(Between):
    """`end + (start - end) (1 + cos(pi p)) / 2`: slow at both ends."""

    def at(self, progress: float) -> float:
        return self.end + (self.start - self.end) * (1 + math.cos(math.pi * progress)) / 2


@dataclass(frozen=True)
class Growing(Schedule):
    """`start sqrt(1 + growth k)` with k rounds done: the square root of the span of `EMA`.

    Args:
        start: In the first round.
        growth: Of the span, per round.
        rounds: Of the whole run.
    """

    start: float
    growth: float
    rounds: int

    def at(self, progress: float) -> float:
        return self.start * math.sqrt(1 + self.growth * progress * (self.rounds - 1))


class Target(Schedule):
    """Adjusts alpha so that the velocity divergence D comes to a given one, D*.

    A proportional-integral controller of log alpha. With the error `e = log(D / D*)`, kept within -2 and 2, each round

        log alpha <- log alpha + rate e + damping (e - e_last)

    The second term answers to the divergence's own movement, and keeps alpha from overshooting while the policy still
    follows: below the target, alpha is not let down while the divergence rises by itself. Alpha stays within a factor
    of 1,000 of its start.

    Args:
        start: alpha of the first round, above 0.
        divergence: D*, above 0.
        rate: Share of the error that a round corrects.
        damping: Weight of the error's change.
    """

    def __init__(self, start: float, divergence: float, rate: float = 0.05, damping: float = 0.5) -> None:
        self.start = start
        self.divergence = divergence
        self.rate = rate
        self.damping = damping
        self.alpha = start
        self.error: float | None = None

    def at(self, progress: float) -> float:
        return self.alpha

    def observe(self, divergence: float | None) -> None:
        # 0 is the very start, where there is nothing to correct yet.
        if not divergence or not math.isfinite(divergence):
            return
        error = min(2.0, max(-2.0, math.log(divergence / self.divergence)))
        change = 0.0 if self.error is None else error - self.error
        step = self.rate * error + self.damping * change
        self.alpha = min(1e3 * self.start, max(1e-3 * self.start, self.alpha * math.exp(step)))
        self.error = error

    def state(self) -> dict[str, float]:
        return {"alpha": self.alpha} | ({} if self.error is None else {"error": self.error})

    def load_state(self, state: Mapping[str, float]) -> None:
        self.alpha, self.error = state["alpha"], state.get("error")


@dataclass(frozen=True)
class Knob:
    """A number of a component that a schedule sets.

    Args:
        name: For metrics and checkpoints.
        owner: The component.
        attribute: Its attribute.
        schedule: What sets it.
    """

    name: str
    owner: Any
    attribute: str
    schedule: Schedule


class Schedules:
    """All schedules of a run.

    Args:
        knobs: What they set; of different names.
    """

    def __init__(self, knobs: Sequence[Knob] = ()) -> None:
        self.knobs = knobs

    def begin(self, done: int, rounds: int) -> None:
        """Set everything for a round.

        Args:
            done: Rounds before it.
            rounds: Of the whole run.
        """
        progress = min(1.0, done / max(1, rounds - 1))
        for knob in self.knobs:
            setattr(knob.owner, knob.attribute, knob.schedule.at(progress))

    def values(self) -> dict[str, float]:
        """What they set, by name, as it is now."""
        return {knob.name: getattr(knob.owner, knob.attribute) for knob in self.knobs}

    def observe(self, divergence: float | None) -> None:
        """Tell all of them the velocity divergence of a round."""
        for knob in self.knobs:
            knob.schedule.observe(divergence)

    def state(self) -> dict[str, dict[str, float]]:
        """What must survive a resume; JSON holds it exactly."""
        return {knob.name: state for knob in self.knobs if (state := knob.schedule.state())}

    def load_state(self, state: Mapping[str, Mapping[str, float]]) -> None:
        """Take back what `state` returned."""
        for knob in self.knobs:
            if knob.name in state:
                knob.schedule.load_state(state[knob.name])


def alpha_schedule(config: RegConfig, alpha: float) -> Schedule | None:
    """The schedule of a regularizer's strength; None if it stays as it is.

    Args:
        config: Options that every regularizer has.
        alpha: Its strength in the first round.
    """
    if config.schedule == "target":
        assert config.divergence is not None
        return Target(alpha, config.divergence)
    return _shape(config.schedule, alpha, config.alpha_end)


def ema_alpha_schedule(config: RegConfig, growth: float, rounds: int) -> Schedule | None:
    """The schedule of the strength that holds to the sampling policy; None if it stays as it is.

    Args:
        config: Options that every regularizer has.
        growth: Of the rounds that the sampling policy spans, per round (`sampler.ema_growth`).
        rounds: Of the whole run.
    """
    return Growing(config.ema_alpha, growth, rounds) if config.anchor == "both" and growth else None


def tau_schedule(config: TauConfig) -> Schedule | None:
    """The schedule of a weighting's strength, from its options; None if it stays as it is."""
    return _shape(config.schedule, config.tau, config.tau_end)


def _shape(name: str, start: float, end: float | None) -> Schedule | None:
    if name == "constant":
        return None
    assert end is not None
    return Linear(start, end) if name == "linear" else Cosine(start, end)
