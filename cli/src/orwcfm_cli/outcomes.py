"""What several runs are compared by, and which of them are not beaten in everything."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from orwcfm_core.config import CombineConfig, TermConfig

from orwcfm_cli.charts import number
from orwcfm_cli.report_data import RunRecord
from orwcfm_cli.report_verdict import measure_name

__all__ = ["COSTS", "Outcome", "front", "outcomes_of", "winners"]

COSTS = {"velocity_divergence": False, "diversity": True, "satisfying_diversity": True}
"""What a gain may cost, and whether more of it is better."""
IDLE = ("on_error", "timeout", "window", "python")
"""Options of rewards that change no score."""
SHARED = ("name", "prompt", "python", *CombineConfig.model_fields, *TermConfig.model_fields)
"""Options of a section of rewards that are no reward's own."""
INCOMPARABLE = "The runs differ in {}: these values cannot be compared."
SCORED = "what scores, its options or prompts"
SPACES = "the features that distances are measured in"


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

    @property
    def cost(self) -> bool:
        """Whether it says what a gain costs."""
        return self.comparable and self.key in COSTS


def outcomes_of(runs: Sequence[RunRecord]) -> list[Outcome]:
    """The measures that at least one run has, the one that counts first."""
    judges = dict.fromkeys(key for run in runs for key in (run.heldout, *run.final, *run.reference) if key)
    found = []
    for key in judges:
        if key.startswith("heldout_"):
            judged = [(_scoring(run, "heldout"), run.prompts) for run in runs if run.end(key) is not None]
            meaning = f"Mean score of {key.removeprefix('heldout_')}, which is not trained on."
            found.append(_outcome(key, measure_name(key), meaning, judged, SCORED))
    rewards = dict.fromkeys(" and ".join(run.names("reward")) for run in runs)
    meaning = f"Mean score of {', '.join(rewards) or 'the reward'}."
    scored_by = [_scoring(run, "reward") for run in runs]
    satisfied = [_satisfying(run) for run in runs if run.end("satisfying_share") is not None]
    spaces = [_space(run) for run in runs if run.end("diversity") is not None]
    both = [(_satisfying(run), _space(run)) for run in runs if run.end("satisfying_diversity") is not None]
    share = "Share of samples that the judge gives at least one half."
    distance = "Mean distance between pairs of samples, in features of length 1."
    same = "The same, of the samples that satisfy the judge."
    divergence = "E|v - v_ref|^2 per dimension, over the last rounds; 0 is the reference."
    origins = [run.config.get("backbone") for run in runs if run.end("velocity_divergence") is not None]
    found += [
        _outcome("reward_mean", "reward", meaning, scored_by, SCORED),
        _outcome("satisfying_share", "satisfying share", share, satisfied, SCORED),
        _outcome("diversity", "diversity", distance, spaces, SPACES),
        _outcome("satisfying_diversity", "satisfying diversity", same, both, f"the judge or {SPACES}"),
        _outcome(
            "velocity_divergence", "velocity divergence", divergence, origins, "the model that it is measured from"
        ),
    ]
    return [outcome for outcome in found if any(run.end(outcome.key) is not None for run in runs)]


def _scoring(run: RunRecord, section: str) -> object:
    """What the scores of a section's rewards depend on: not where those run, nor what happens when one fails."""

    def kept(table: Mapping[str, object]) -> dict[str, object]:
        left = {key: value for key, value in table.items() if key not in IDLE}
        return {key: kept(value) if isinstance(value, Mapping) else value for key, value in left.items()}

    table = run.options.get(section, {})
    terms = [table, *(own for own in table.values() if isinstance(own, Mapping))]
    # Then a score is in units of its spread under the reference.
    relative = any(term.get("normalise", "none") != "none" for term in terms)
    return kept(table) | {"name": run.names(section), "backbone": run.config.get("backbone") if relative else None}


def _satisfying(run: RunRecord) -> object:
    """What decides whether a sample satisfies, and by which prompts."""
    judge = run.reference.get("satisfying_judge")
    return judge, _scoring(run, "heldout" if judge in run.names("heldout") else "reward"), run.prompts


def _space(run: RunRecord) -> object:
    """Where diversity was measured: the reward whose features count, with its own options."""
    space = run.option("notes", "feature_space")
    for section in ("heldout", "reward"):
        for name in run.names(section):
            if space == f"features of {name}":
                own = run.option(section, name) if len(run.names(section)) > 1 else run.options[section]
                options = own.items() if isinstance(own, Mapping) else ()
                return space, {option: value for option, value in options if option not in SHARED}
    return space


def _outcome(key: str, name: str, meaning: str, measured_by: Sequence[object], what: str) -> Outcome:
    """A measure, and whether it was measured in the same way in all runs that have it."""
    if all(by == measured_by[0] for by in measured_by):
        return Outcome(key, name, meaning)
    return Outcome(key, name, f"{meaning} {INCOMPARABLE.format(what)}", comparable=False)


def winners(ends: Sequence[tuple[float, str]]) -> tuple[str, list[str]]:
    """The highest value as it is shown, of three digits, and the labels of all that are shown as this.

    Args:
        ends: Values with labels, at least one.
    """
    shown = number(max(ends)[0])
    return shown, [label for value, label in ends if number(value) == shown]


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
