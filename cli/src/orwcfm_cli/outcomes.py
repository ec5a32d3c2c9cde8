"""What several runs are compared by, and which of them are not beaten in everything."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from orwcfm_cli.report_data import RunRecord
from orwcfm_cli.report_verdict import measure_name

__all__ = ["COSTS", "Outcome", "front", "outcomes_of"]

COSTS = {"velocity_divergence": False, "diversity": True, "satisfying_diversity": True}
"""What a gain may cost, and whether more of it is better."""


@dataclass(frozen=True)
class Outcome:
    """A measure at the end of a run.

    Args:
        key: Of metrics.jsonl or final.json.
        name: For people.
        meaning: In a sentence.
        comparable: Whether it means the same in all runs.
    """

    key: str
    name: str
    meaning: str = ""
    comparable: bool = True

    @property
    def gain(self) -> bool:
        """Whether it is what is wanted, and not what that costs."""
        return self.comparable and self.key not in COSTS and self.key != "satisfying_share"


def outcomes_of(runs: Sequence[RunRecord]) -> list[Outcome]:
    """The measures that at least one run has, the one that counts first."""
    judges = dict.fromkeys(key for run in runs for key in (run.heldout, *run.final, *run.reference) if key)
    found = [
        Outcome(key, measure_name(key), f"Mean score of {key.removeprefix('heldout_')}, which is not trained on.")
        for key in judges
        if key.startswith("heldout_")
    ]
    rewards = dict.fromkeys(" and ".join(run.names("reward")) for run in runs)
    several = "" if len(rewards) <= 1 else " The runs have other rewards: these values cannot be compared."
    found += [
        Outcome(
            "reward_mean", "reward", f"Mean score of {', '.join(rewards) or 'the reward'}.{several}", len(rewards) <= 1
        ),
        Outcome("satisfying_share", "satisfying share", "Share of samples that the judge gives at least one half."),
        Outcome("diversity", "diversity", "Mean distance between pairs of samples, in features of length 1."),
        Outcome("satisfying_diversity", "satisfying diversity", "The same, of the samples that satisfy the judge."),
        Outcome(
            "velocity_divergence",
            "velocity divergence",
            "E|v - v_ref|^2 per dimension, over the last rounds; 0 is the reference.",
        ),
    ]
    return [outcome for outcome in found if any(run.end(outcome.key) is not None for run in runs)]


def front(points: Sequence[tuple[float, float]], more_x: bool) -> list[int]:
    """The Pareto front: which points no other is at least as good as in both, and better in one; by x.

    Args:
        points: (x, y); more y is better.
        more_x: Whether more x is better; else less is.
    """
    ahead = [(x if more_x else -x, y) for x, y in points]

    def beaten(i: int) -> bool:
        return any(q[0] >= ahead[i][0] and q[1] >= ahead[i][1] and q != ahead[i] for q in ahead)

    return sorted((i for i in range(len(points)) if not beaten(i)), key=lambda i: points[i])
