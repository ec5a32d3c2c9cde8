"""What several runs are compared by, and which of them are not beaten in everything."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from orwcfm_cli.report_data import RunRecord
from orwcfm_cli.report_verdict import measure_name

__all__ = ["COSTS", "Outcome", "front", "outcomes_of"]

COSTS = {"velocity_divergence": False, "diversity": True, "satisfying_diversity": True}
"""What a gain may cost, and whether more of it is better."""
IDLE = ("on_error", "timeout", "window", "python")
"""Options of rewards that change no score."""


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
    found = []
    for key in judges:
        if key.startswith("heldout_"):
            judged = [(_scoring(run, "heldout"), run.prompts) for run in runs if run.end(key) is not None]
            meaning = f"Mean score of {key.removeprefix('heldout_')}, which is not trained on."
            found.append(_score(key, measure_name(key), meaning, judged))
    rewards = dict.fromkeys(" and ".join(run.names("reward")) for run in runs)
    meaning = f"Mean score of {', '.join(rewards) or 'the reward'}."
    found += [
        _score("reward_mean", "reward", meaning, [_scoring(run, "reward") for run in runs]),
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


def _scoring(run: RunRecord, section: str) -> object:
    """What the scores of a section's rewards depend on: not where those run, nor what happens when one fails."""

    def kept(table: Mapping[str, object]) -> dict[str, object]:
        left = {key: value for key, value in table.items() if key not in IDLE}
        return {key: kept(value) if isinstance(value, Mapping) else value for key, value in left.items()}

    table = run.config.get(section)
    return kept(table if isinstance(table, Mapping) else {}) | {"name": run.names(section)}


def _score(key: str, name: str, meaning: str, scored_by: Sequence[object]) -> Outcome:
    """A mean score, and whether all runs were scored by the same."""
    if all(by == scored_by[0] for by in scored_by):
        return Outcome(key, name, meaning)
    more = "The runs differ in what scores, its options or prompts: these values cannot be compared."
    return Outcome(key, name, f"{meaning} {more}", comparable=False)


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
