"""What each metric means, in a sentence, and whether more of it is better."""

from __future__ import annotations

from dataclasses import dataclass

from orwcfm_cli.report_data import RunRecord

__all__ = ["ALPHA", "Metric", "metrics_of"]

ALPHA = (
    "alpha weighs the pull towards the reference, alpha |v - v_ref|^2, against the reward-weighted regression. At 0 "
    "nothing holds the policy: round after round it concentrates on what scores highest, in the end on a single "
    "picture. A larger alpha buys variety and closeness to the reference, and pays with reward and speed; too large, "
    "and nothing is learned. Several runs, each with its own alpha, show the exchange rate."
)


@dataclass(frozen=True)
class Metric:
    """A key of metrics.jsonl: its name, its meaning, and whether more of it is better."""

    key: str
    name: str
    meaning: str
    better: bool = False


def metrics_of(run: RunRecord) -> list[Metric]:
    """The metrics that a report explains, the outcome first."""
    space = run.option("notes", "feature_space")
    where = f" ({space})" if space else ""
    rewards = run.names("reward")
    reward = " and ".join(rewards) or "the reward"
    judges = [run.heldout] if run.heldout else []
    judges += [key for name in run.names("heldout") if (key := f"heldout_{name}") not in judges]
    found = [
        Metric(
            "reward_mean", "Reward", f"Mean of {reward} over the samples of a round; this is trained on.", better=True
        )
    ]
    if any(value is not None for name in rewards for value in run.series(f"reward_{name}")):
        before = "before it is normalised and combined with others."
        found += [Metric(f"reward_{name}", f"Reward {name}", f"Mean of {name}, {before}", True) for name in rewards]
    for key in judges:
        judge = key.removeprefix("heldout_")
        apart = "it is never trained on, and so tells whether a gain is real."
        if judge in str(run.option("notes", "trained_judges", "")).split(", "):
            apart = "it is trained on with the same options, and so tells no more than the reward."
        meaning = f"Mean of {judge} on the same samples; {apart}"
        found.append(Metric(key, f"Held-out {judge}", meaning, better=True))
    distance = f"Mean distance between pairs of samples in a feature space{where}; 0 means that all are the same."
    return [
        *found,
        Metric("diversity", "Diversity", distance),
        Metric(
            "velocity_divergence",
            "Velocity divergence",
            "How far the policy's velocity is from the reference's, E|v - v_ref|^2 per dimension: the integral in the "
            "bound on their Wasserstein-2 distance, without the factor e^(2L).",
        ),
        Metric(
            "ess",
            "Effective sample size",
            "The share of a round's samples that carry its weight, (sum |w|)^2 / (B sum w^2): near 0, few decide all.",
        ),
        Metric("loss", "Loss", "The weighted regression plus alpha times the penalty; its level says little."),
        Metric("penalty", "Penalty", "The regularizer's distance from the reference, before alpha."),
        Metric("grad_norm", "Gradient norm", "Length of the gradient before clipping; spikes are unstable updates."),
        Metric("lr", "Learning rate", "Step size of the optimiser, after warm-up and decay."),
        Metric("seconds", "Seconds per round", "Sampling, scoring and updates together."),
        Metric("samples_per_second", "Samples per second", "Samples of a round over its seconds."),
        Metric("nfe", "Model evaluations", "Calls of a velocity field per round, counted per sample."),
        Metric("invalid", "Invalid samples", "Samples that the reward refused; their weight is 0."),
    ]
