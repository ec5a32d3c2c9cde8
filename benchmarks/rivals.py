"""What the default run costs against the paper's own settings and against Flow-GRPO, to the same held-out score.

    python benchmarks/rivals.py
    python benchmarks/rivals.py --tune

All of them fine-tune the shipped Fashion-MNIST U-Net on footwear with the small CLIP as the reward, 128 samples a
round, on the CPU with one thread. A method has reached a target when the mean of the held-out judge over its last 5
rounds has, and 512 fresh samples confirm it. Counted until then are model evaluations (a sample each, of policy and
reference) and the time of training rounds. It is compared as processor time: other load on the machine adds little to
that. The judge sees samples of the flow's ODE from every method; where training does not draw such, those cost nothing.

Each rival's part of benchmarks/rivals.md is written when it is done. `--tune` tries their other settings instead.
"""

from __future__ import annotations

import argparse
import multiprocessing
import shlex
import statistics
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from orwcfm_cli.assemble import assemble
from orwcfm_core.evaluation import evaluate
from orwcfm_core.registry import Registry
from orwcfm_core.resolve import resolve
from orwcfm_core.trainer import State, Trainer

Tables = Mapping[str, Mapping[str, Any]]

WINDOW, CONFIRM = 5, 512
JUDGE = "heldout_class-probability"
RESULTS = Path(__file__).with_suffix(".md")


@dataclass(frozen=True)
class Method:
    """A way to fine-tune.

    Args:
        title: For the tables.
        tables: Its options by section; others are the defaults, or what its trainer proposes.
        stochastic: Whether its rounds draw samples that are not the ODE's.
    """

    title: str
    tables: Tables
    stochastic: bool = False

    def start(self, seed: int) -> tuple[Trainer, State]:
        """Build it."""
        train = {"samples": 128, "device": "cpu", "seed": seed, **self.tables.get("train", {})}
        return assemble(resolve({**self.tables, "train": train}, Registry()))


def published(tau: float, alpha: float, lr: float, **changes: Any) -> Method:
    """The settings of the authors' code: 100 Euler steps, one update per batch, float32, hard copy, exp weights.

    Its coupling, which mixes up samples and weights, is replaced by the independent one, and its warm-up of 5,000 steps
    by one of 10, without which it would not move at all in the time that is measured here. Its samples come from a copy
    that is renewed every 100 updates or more, here from the newest policy; its weights are exp(tau r) of a reward from
    -1 to 1, here of one from 0 to 1, and of mean 1.

    Args:
        tau: Inverse temperature.
        alpha: Weight of the W2 penalty, against weights of mean 1.
        lr: Learning rate, constant after the warm-up.
        changes: Of the table `train`, or `steps` and `ema` of the sampler.
    """
    sampler = {"name": "euler", "steps": changes.pop("steps", 100), "ema": changes.pop("ema", 0.0)}
    train = {"updates": 1, "precision": "fp32", "coupling": "independent", "lr": lr, "warmup": 10, "decay": 1.0}
    tables: Tables = {
        "sampler": sampler,
        "weighting": {"name": "exp", "tau": tau},
        "reg": {"name": "w2", "alpha": alpha, "anchor": "reference"},
        "train": train | changes,
    }
    return Method(f"published settings, tau {tau:g}, alpha {alpha:g}, lr {lr:g}", tables)


def flow_grpo(lr: float, clip: float) -> Method:
    """Trainer flow-grpo with the cost of the authors' code: two updates, on half of the steps of all paths each.

    Args:
        lr: Learning rate, constant.
        clip: The ratio counts within `1 -+ clip`.
    """
    train = {"updates": 2, "draws": 5, "lr": lr, "warmup": 0, "decay": 1.0}
    tables = {"train": {"name": "flow-grpo", "clip_range": clip, **train}}
    return Method(f"Flow-GRPO, lr {lr:g}, clip {clip:g}", tables, stochastic=True)


METHODS = {
    "default": Method("default", {}),
    "flow-grpo": flow_grpo(lr=3e-4, clip=1e-4),
    "flow-grpo-tuned": flow_grpo(lr=3e-4, clip=1e-3),
    "published": published(tau=0.5, alpha=1, lr=2e-4),
    "published-tuned": published(tau=5, alpha=0.1, lr=2e-4),
}

CANDIDATES = {
    "published": [
        published(tau=0.5, alpha=1, lr=2e-4),
        published(tau=5, alpha=0.1, lr=1e-4),
        published(tau=5, alpha=0.1, lr=2e-4),
        published(tau=5, alpha=0.1, lr=5e-4),
    ],
    "flow-grpo": [flow_grpo(lr, clip) for lr, clip in ((3e-4, 1e-4), (5e-4, 1e-4), (1e-3, 1e-4), (3e-4, 1e-3))],
}
"""What `--tune` tries for each rival."""

CLAIMS = {
    "published": {"evaluations": 10.0, "processor": 8.0},
    "published-tuned": {"evaluations": 10.0, "processor": 8.0},
    "flow-grpo": {"processor": 5.0},
    "flow-grpo-tuned": {"processor": 5.0},
}
"""How many times less the default run is to need."""

MEASURES = {"evaluations": "model evaluations", "processor": "time"}


@dataclass(frozen=True)
class Point:
    """Where a run stands.

    Args:
        rounds: Rounds done.
        evaluations: Of policy and reference so far, a sample each.
        processor: Processor seconds of the rounds so far.
        seconds: Seconds of the rounds so far.
        judge: Mean of the held-out judge.
        diversity: Of the samples that the judge accepts, as a share of the reference's.
    """

    rounds: int = 0
    evaluations: int = 0
    processor: float = 0.0
    seconds: float = 0.0
    judge: float = 0.0
    diversity: float = 0.0


@dataclass(frozen=True)
class Outcome:
    """What came of a run.

    Args:
        reached: By target, where it was first reached.
        end: Where the run was stopped.
    """

    reached: Mapping[float, Point]
    end: Point

    def at(self, target: float) -> tuple[Point, bool]:
        """Where it reached the target, or else was stopped, and which of the two."""
        return self.reached.get(target, self.end), target in self.reached


def measure(method: Method, seed: int, targets: Sequence[float], limit: float) -> Outcome:
    """Train until the last target is reached.

    Args:
        method: How.
        seed: Of the run.
        targets: Of the held-out judge, ascending.
        limit: Processor seconds after which the run is stopped.
    """
    torch.set_num_threads(1)
    trainer, state = method.start(seed)
    reference = evaluate(state, CONFIRM)
    reached: dict[float, Point] = {}
    for point in progress(method, trainer, state):
        if point.rounds % WINDOW == 0:
            print(f"{method.title}, seed {seed}: {point}", file=sys.stderr, flush=True)
        missing = [target for target in targets if target not in reached]
        stop = point.processor >= limit
        if stop or point.judge >= missing[0]:
            point = confirmed(state, point, reference)
            reached |= {target: point for target in missing if point.judge >= target}
        if stop or len(reached) == len(targets):
            print(f"{method.title}, seed {seed}: {reached}", file=sys.stderr, flush=True)
            return Outcome(reached, point)
    raise AssertionError("a run goes on until it is stopped")


def progress(method: Method, trainer: Trainer, state: State) -> Iterator[Point]:
    """Do one round after another; the judge's mean is over the last ones, and 0 until there are enough."""
    point, judged = Point(), []
    while True:
        seconds, processor = time.perf_counter(), time.process_time()
        metrics = trainer.round(state)
        point = replace(
            point,
            rounds=state.round,
            evaluations=point.evaluations + int(metrics["nfe"]),
            processor=point.processor + time.process_time() - processor,
            seconds=point.seconds + time.perf_counter() - seconds,
        )
        judged.append(fresh(state) if method.stochastic else metrics[JUDGE])
        yield replace(point, judge=statistics.mean(judged[-WINDOW:]) if len(judged) >= WINDOW else 0.0)


def fresh(state: State, count: int = 128) -> float:
    """The judge's mean over samples of the ODE, `(count,)`, where training draws others."""
    parts = state.components
    prompts = [parts.prompts[i % len(parts.prompts)] for i in range(count)]
    x_1, _ = state.sample(state.noise(count), prompts)
    values, valid = parts.heldout[0].score(x_1, parts.backbone.to_images(x_1), prompts)
    return float(values[valid].mean())


def confirmed(state: State, point: Point, reference: Mapping[str, Any]) -> Point:
    """The same point as fresh samples see it."""
    found = evaluate(state, CONFIRM)
    share = (found["satisfying_diversity"] or 0.0) / reference["satisfying_diversity"]
    return replace(point, judge=found[JUDGE], diversity=share)


Outcomes = dict[tuple[str, int], Outcome]
"""By name of the method and seed."""


def measure_all(name: str, limits: Mapping[int, float], targets: Sequence[float], jobs: int) -> Outcomes:
    """Measure a method with several seeds, each with its limit of processor seconds."""
    found = together([(METHODS[name], seed, targets, limit) for seed, limit in limits.items()], jobs)
    return {(name, seed): outcome for seed, outcome in zip(limits, found, strict=True)}


def compare(names: Sequence[str], seeds: Sequence[int], targets: Sequence[float], budget: float, jobs: int) -> None:
    """Measure the default run, then rivals, each for at most `budget` times what the default run of its seed took.

    Each rival's part of the result is written when it is done.
    """
    default = measure_all("default", dict.fromkeys(seeds, float("inf")), targets, jobs)
    limits = {seed: budget * default["default", seed].end.processor for seed in seeds}
    for name in names:
        text = results(name, default | measure_all(name, limits, targets, jobs), targets)
        write(f"Against {METHODS[name].title}", text)


def together(tasks: Sequence[tuple[Method, int, Sequence[float], float]], jobs: int) -> list[Outcome]:
    """Measure in processes of their own, `jobs` at once."""
    with ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn"), max_tasks_per_child=1) as pool:
        return list(pool.map(measure, *zip(*tasks, strict=True))) if tasks else []


def table(rows: Iterable[Sequence[str]]) -> str:
    """Rows of cells as Markdown; the first is the heading."""
    heading, *others = ("| " + " | ".join(row) + " |" for row in rows)
    return "\n".join([heading, "|---" * (heading.count("|") - 1) + "|", *others])


HEADING = "method|seed|judge|rounds|model evaluations|processor s|s|diversity kept|evaluations / time".split("|")


def results(name: str, outcomes: Outcomes, targets: Sequence[float]) -> str:
    """A table for every target and what it says of the claims about a rival."""
    parts = []
    for target in targets:
        rows = [HEADING, *(row(method, seed, outcomes, target) for method, seed in outcomes)]
        parts.append(f"To {target:g}:\n\n{table(rows)}")
    return "\n\n".join([*parts, "\n".join(verdicts(name, outcomes, targets[-1]))])


def row(name: str, seed: int, outcomes: Outcomes, target: float) -> list[str]:
    """One run's line; costs are multiples of the default run's evaluations and processor time."""
    point, reached = outcomes[name, seed].at(target)
    default, _ = outcomes["default", seed].at(target)
    more = "" if reached else "not within "
    cost = f"{more}{point.evaluations / default.evaluations:.1f} / {point.processor / default.processor:.1f}"
    return [
        METHODS[name].title,
        str(seed),
        f"{point.judge:.3f}",
        str(point.rounds),
        f"{point.evaluations:,}",
        f"{point.processor:.0f}",
        f"{point.seconds:.0f}",
        f"{point.diversity:.2f}",
        "1 / 1" if name == "default" else cost,
    ]


def verdicts(name: str, outcomes: Outcomes, target: float) -> list[str]:
    """What the outcomes say of the claims about one rival, a line each."""
    seeds = [seed for other, seed in outcomes if other == name]
    pairs = [(outcomes["default", seed].at(target)[0], *outcomes[name, seed].at(target)) for seed in seeds]
    lines = []
    for field, claim in CLAIMS[name].items():
        ratios = [getattr(rival, field) / getattr(default, field) for default, rival, _ in pairs]
        failed = [ratio for ratio, (*_, reached) in zip(ratios, pairs, strict=True) if reached and ratio < claim]
        holds = "does not hold" if failed else "holds" if min(ratios) >= claim else "is not decided"
        more = "" if all(reached for *_, reached in pairs) else "more than "
        times = " and ".join(f"{ratio:.1f}" for ratio in ratios)
        lines.append(
            f"* At least {claim:g} times less in {MEASURES[field]}, to {target:g}: {holds}; {more}{times} times."
        )
    own, other = kept([default for default, *_ in pairs]), kept([rival for _, rival, _ in pairs])
    lines.append(f"* Diversity kept: {own} against {other}.")
    return lines


def kept(points: Sequence[Point]) -> str:
    """The diversity that runs have kept, and for which score."""
    diversity, judge = (
        statistics.mean(values) for values in zip(*((p.diversity, p.judge) for p in points), strict=True)
    )
    return f"{diversity:.2f} at a judge of {judge:.2f}"


def tune(methods: Sequence[Method], target: float, budget: float, jobs: int) -> str:
    """Measure settings of a rival with one seed; a table of what came of them."""
    default = measure(METHODS["default"], 0, [target], float("inf")).end
    found = together([(method, 0, [target], budget * default.processor) for method in methods], jobs)
    rows = ["settings|judge|rounds|model evaluations|processor s|diversity kept".split("|")]
    for method, outcome in zip(methods, found, strict=True):
        point, reached = outcome.at(target)
        judge = f"{point.judge:.3f}" if reached else f"{point.judge:.3f} when stopped"
        cells = (f"{point.evaluations:,}", f"{point.processor:.0f}", f"{point.diversity:.2f}")
        rows.append([method.title, judge, str(point.rounds), *cells])
    return f"To {target:g}, seed 0, each within {budget:g} times what the default run took.\n\n{table(rows)}"


def write(heading: str, text: str) -> None:
    """Print a section, and put it into the written result in the place of the last one with this heading."""
    print(f"{heading}\n\n{text}\n", flush=True)
    title, *sections = (RESULTS.read_text() if RESULTS.exists() else "# Rivals\n").split("\n## ")
    kept = [section.strip() for section in sections if section.split("\n")[0] != heading]
    kept.append(f"{heading}\n\n    {shlex.join(['python', 'benchmarks/rivals.py', *sys.argv[1:]])}\n\n{text}")
    RESULTS.write_text("\n\n## ".join([title.strip(), *sorted(kept)]) + "\n")


def main() -> None:
    rivals = [name for name in METHODS if name != "default"]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--method", nargs="+", choices=rivals, default=rivals, help="rivals of the default run")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1], help="one run of each method for each")
    parser.add_argument("--target", type=float, nargs="+", default=[0.6, 0.9], help="scores of the held-out judge")
    parser.add_argument("--budget", type=float, default=10.0, help="times the default run's time that a rival may take")
    parser.add_argument("--jobs", type=int, default=1, help="runs at once, each with one thread")
    parser.add_argument("--tune", action="store_true", help="measure settings of the rivals instead")
    args = parser.parse_args()
    targets = sorted(args.target)
    if args.tune:
        for name in set(args.method) & set(CANDIDATES):
            write(f"Settings tried: {name}", tune(CANDIDATES[name], targets[-1], args.budget, args.jobs))
    else:
        compare(args.method, args.seeds, targets, args.budget, args.jobs)


if __name__ == "__main__":
    main()
