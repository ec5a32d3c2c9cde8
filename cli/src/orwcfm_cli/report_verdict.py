"""What happened in a run, in plain words, with what to change if it went wrong."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise
from math import sqrt
from statistics import median

from orwcfm_cli.charts import MINUS, number
from orwcfm_cli.report_data import RunRecord, finite, mean
from orwcfm_cli.watch import CHOSEN

__all__ = ["Verdict", "judge", "measure_name", "plain"]

COLLAPSED_DIVERSITY = 0.5
NARROW_DIVERSITY = 0.75
COLLAPSED_ESS = 0.05
BLOW_UP = 10.0
LARGE_DIVERGENCE = 0.5
FELL_BACK = 0.25
NORMAL_MEDIAN = 0.6745
SIGNED_WEIGHTINGS = ("advantage", "group-advantage")
NBSP = "\N{NO-BREAK SPACE}"


@dataclass
class Verdict:
    """A level ("good", "caution", "collapse" or "empty"), its name, a headline, reasons for it and advice."""

    level: str = "good"
    label: str = "Healthy"
    headline: str = ""
    reasons: list[str] = field(default_factory=list)
    advice: list[str] = field(default_factory=list)

    def worsen(self, level: str, label: str, reason: str, *advice: str) -> None:
        """Add a reason; the first of the worst level names the verdict."""
        order = ["good", "caution", "collapse"]
        if order.index(level) > order.index(self.level):
            self.level, self.label = level, label
        self.reasons.append(reason)
        self.advice += [a for a in advice if a and a not in self.advice]


def plain(value: float) -> str:
    """A number as one says it: two decimals, more where it is small."""
    return f"{value:.2f}".replace("-", MINUS) if 0.1 <= abs(value) < 100 else number(value)


def percent(share: float) -> str:
    return f"{100 * share:.0f}{NBSP}%"


def measure_name(key: str) -> str:
    """`heldout_clip-score` as "held-out clip-score"."""
    return f"held-out {key.removeprefix('heldout_')}" if key.startswith("heldout_") else "reward"


def judge(run: RunRecord) -> Verdict:
    """The verdict on a run as far as it has come."""
    if not run.rounds:
        return Verdict("empty", "No rounds yet", "No round has finished yet: there is nothing to judge.")
    verdict = Verdict()
    _judge_diversity(run, verdict)
    _judge_weights(run, verdict)
    _judge_gain(run, verdict)
    _judge_stability(run, verdict)
    if _unfinished(run) and verdict.label in ("Healthy", "No gain"):
        verdict.label += " so far"
    outcome = f"{_rise(run)}; {_diversity_clause(run)}" if _ideal(run) else _rise(run)
    verdict.headline = f"COLLAPSE: {outcome}." if verdict.level == "collapse" else f"{outcome[0].upper()}{outcome[1:]}."
    return verdict


def _unfinished(run: RunRecord) -> bool:
    return run.numbers[-1] < run.planned and not run.final


def _measure(run: RunRecord) -> str:
    """The key that the run is judged by: held-out where there is one."""
    return run.heldout if run.heldout and run.end(run.heldout) is not None else "reward_mean"


def _change(run: RunRecord, key: str) -> tuple[float, float, str]:
    """Start, end and the verb between them; what may be noise is no change."""
    start, end = run.start(key) or 0.0, run.end(key) or 0.0
    return start, end, "stayed at" if abs(end - start) <= _noise(run, key) else "rose" if end > start else "fell"


def _noise(run: RunRecord, key: str) -> float:
    """Two standard errors of a value at the end, with the spread of rounds taken from their steps (robustly).

    And of the change from reference to result, where both know the spread of their samples; else 2 % of the start.
    """
    values = [v for v in run.series(key) if v is not None]
    steps = [abs(b - a) for a, b in pairwise(values)]
    spread = median(steps) / NORMAL_MEDIAN / sqrt(2) if len(steps) >= 3 else 0.0
    measured = [(finite(m.get("reward_std")), finite(m.get("samples"))) for m in (run.reference, run.final)]
    if key == "reward_mean" and all(std is not None and count for std, count in measured):
        least = 2 * sqrt(sum((std or 0.0) ** 2 / (count or 1.0) for std, count in measured))
    else:
        least = 0.02 * abs(run.start(key) or 0.0)
    return max(2 * spread / sqrt(run.averaged), least)


def _rise(run: RunRecord) -> str:
    key = _measure(run)
    if run.end(key) is None:
        return f"{measure_name(key)} is not known: no sample could be scored at the end"
    start, end, verb = _change(run, key)
    if verb == "stayed at":
        return f"{measure_name(key)} hardly moved, from {plain(start)} to {plain(end)}"
    return f"{measure_name(key)} {verb} from {plain(start)} to {plain(end)}"


def _ideal(run: RunRecord) -> tuple[float, str] | None:
    """The diversity to keep, and what it is the diversity of."""
    known = [
        (run.baseline("satisfying_diversity"), f"that of the reference's own samples that {run.goal}"),
        (run.baseline("diversity"), "that of all the reference's samples"),
        (next((v for v in run.series("diversity") if v is not None), None), "that of the first round"),
    ]
    return next(((value, of) for value, of in known if value), None)


def _kept(run: RunRecord) -> float | None:
    ideal, end = _ideal(run), run.end("satisfying_diversity")
    end = run.end("diversity") if end is None else end
    return end / ideal[0] if ideal and end is not None else None


def _diversity_clause(run: RunRecord) -> str:
    kept, ideal = _kept(run), _ideal(run)
    return f"diversity is {percent(kept)} of {ideal[1]}" if ideal and kept is not None else "diversity was not measured"


def _judge_diversity(run: RunRecord, verdict: Verdict) -> None:
    kept, ideal = _kept(run), _ideal(run)
    if kept is None or ideal is None or kept >= NARROW_DIVERSITY:
        return
    reason = f"Diversity is {percent(kept)} of {ideal[1]} ({plain(kept * ideal[0])} against {plain(ideal[0])})"
    if run.baseline("satisfying_diversity") is None:
        reason += "; a run that keeps only what satisfies the reward must lose some of this"
    if kept < COLLAPSED_DIVERSITY:
        reason += ". The samples have become too much alike: the policy has collapsed onto a few of them."
        verdict.worsen("collapse", "COLLAPSE", reason, *_loosen(run))
    else:
        verdict.worsen("caution", "Narrowed", f"{reason}. Variety is being lost.", *_loosen(run)[:2])


def _loosen(run: RunRecord) -> list[str]:
    """What keeps a policy from collapsing, most effective first."""
    weighting = run.option("weighting", "name")
    flags = {"reg.alpha": "--alpha, "}
    now = " or ".join(f"{option} ({flags.get(option, '')}now {alpha:g})" for option, alpha in run.alphas.items())
    advice = [f"Raise {now}: it holds the policy near the reference."]
    if not now:
        advice = ["Add an anchor to the reference: --reg w2 --alpha 0.3."]
    if weighting not in SIGNED_WEIGHTINGS:
        tau = finite(run.option("weighting", "tau"))
        advice.append(f"Use --weighting advantage (now {weighting}): it rewards what is better than the average.")
        advice.append(f"Or lower weighting.tau (--tau, now {tau:g})." if tau is not None else "")
    best = run.best(_measure(run))
    until = f"; the best value was reached in round {best[1]}" if best and best[1] < 0.9 * len(run.rounds) else ""
    advice.append(f"Train for fewer rounds (--rounds, now {run.planned or len(run.rounds)}){until}.")
    return advice


def _judge_weights(run: RunRecord, verdict: Verdict) -> None:
    # 0 is of a round in which nothing weighs anything, for all scores are alike or none is valid.
    late = [v for v in run.series("ess") if v][-5:]
    if not late or median(late) >= COLLAPSED_ESS or run.option("weighting", "name") in (*SIGNED_WEIGHTINGS, CHOSEN):
        return
    reason = (
        f"The effective sample size fell to {percent(median(late))} of the batch: a few samples carry all the weight."
    )
    verdict.worsen("collapse", "COLLAPSE", reason, "Lower weighting.tau (--tau).", *_loosen(run))


def _judge_gain(run: RunRecord, verdict: Verdict) -> None:
    key = _measure(run)
    if run.end(key) is None:
        advice = "Look into why the reward fails (reward.on_error)."
        verdict.worsen("caution", "Not scored", f"{measure_name(key).capitalize()} at the end is not known.", advice)
        return
    start, end, verb = _change(run, key)
    trained = "" if run.end("reward_mean") is None else _change(run, "reward_mean")[2]
    # Where diversity or weights are gone, the advice there is the opposite, and comes first.
    held = [f"{option} (--alpha)" if option == "reg.alpha" else option for option, a in run.alphas.items() if a > 0]
    lower = [f"Lower {' or '.join(held)}."] if held else []
    more = [*lower, "Train for more rounds (--rounds)."] if verdict.level == "good" and not _unfinished(run) else []
    if key != "reward_mean" and trained == "rose" and verb != "rose":
        reason = f"The reward rose, but {measure_name(key)} did not: the policy may exploit the reward's weak spots."
        verdict.worsen(
            "caution", "Reward only", reason, "Look at the pictures; raise reg.alpha, or improve the reward."
        )
        return
    if verb != "rose":
        verdict.worsen("caution", "No gain", f"{measure_name(key).capitalize()} did not improve.", *more)
        return
    best = _best_stretch(run, key)
    if best and best[0] - end > max(FELL_BACK * (best[0] - start), _noise(run, key)):
        reason = f"{measure_name(key).capitalize()} was {plain(best[0])} around round {best[1]} and fell back since."
        verdict.worsen("caution", "Fell back", reason, f"Stop near round {best[1]}, or lower train.lr.")


def _best_stretch(run: RunRecord, key: str) -> tuple[float, int] | None:
    """The highest mean over `averaged` consecutive rounds that led to the result, and the last of them."""
    known = list(zip(run.series(key), run.numbers, strict=True))[: run.led]
    pairs = [(v, n) for v, n in known if v is not None]
    ends = range(run.averaged, len(pairs) + 1)
    means = [(mean([v for v, _ in pairs[i - run.averaged : i]]) or 0.0, pairs[i - 1][1]) for i in ends]
    return max(means, key=lambda pair: pair[0], default=None)


def _judge_stability(run: RunRecord, verdict: Verdict) -> None:
    values = [v for v in run.series("velocity_divergence") if v is not None]
    highest = run.best("velocity_divergence")
    if highest and highest[0] > LARGE_DIVERGENCE and highest[0] > BLOW_UP * median(values):
        reason = (
            f"Velocity divergence jumped to {plain(highest[0])} in round {highest[1]}: the update was unstable there."
        )
        advice = "Lower train.lr, raise sampler.ema, or raise reg.alpha."
        verdict.worsen("caution", "Unstable", reason, advice)
    invalid = sum(v or 0.0 for v in run.series("invalid"))
    if invalid:
        verdict.reasons.append(f"{number(invalid)} samples were invalid; they were left out, and never given reward 0.")
