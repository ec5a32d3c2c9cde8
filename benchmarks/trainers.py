"""The default beside every other trainer: reward against diversity along alpha, at equal model evaluations.

    python benchmarks/trainers.py benchmarks/measured/trainers.json --jobs 2

Each run goes on for as many rounds as fit into 144,000 evaluations, 62 of the default, with its trainer's own
proposals for weights, sampler and regularizer, other options being the task's and the default's; then 2,048 fresh
samples are measured. The file keeps what is done, so that a stopped benchmark goes on where it was. 51 runs for each
seed and task, of about four minutes of one core each; two to three times that where the core does not compute in bf16.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import statistics
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from charts import COLOURS, Panel, Series, save
from orwcfm_cli.assemble import assemble
from orwcfm_cli.options import merge
from orwcfm_core.evaluation import evaluate
from orwcfm_core.registry import Registry
from orwcfm_core.resolve import resolve
from orwcfm_core.trainer import State
from page import DOCS, IMAGES, row, write

EVALUATIONS, SAMPLES = 144_000, 2048
Ticks = tuple[Sequence[float], Sequence[float]]


@dataclass(frozen=True)
class Task:
    """What to reach, and what it is measured by.

    Args:
        title: Of its picture.
        options: Of its runs.
        ticks: Of the picture's axes.
        corner: Of the picture beside it, which shows the best of it.
        scores: What `evaluate` calls the columns of scores; methods are compared by the last.
        diversity: What it calls the diversity.
    """

    title: str
    options: Mapping[str, Any]
    ticks: Ticks
    corner: Ticks
    scores: Mapping[str, str]
    diversity: str


JUDGED = {"reward": "reward_mean", "judge": "heldout_class-probability"}
PROBABILITY: Ticks = ([0, 0.2, 0.4, 0.6, 0.8, 1], [0, 0.2, 0.4, 0.6, 0.8, 1, 1.2])
TASKS: Mapping[str, Task] = {
    "footwear": Task(
        "Footwear",
        {"backbone.weights": "fashion", "reward.prompt": ["footwear"]},
        PROBABILITY,
        ([0.94, 0.96, 0.98, 1], [0.8, 0.85, 0.9, 0.95, 1]),
        JUDGED,
        "satisfying_diversity",
    ),
    "digits": Task(
        "Even digits",
        {"backbone.weights": "mnist", "reward.prompt": ["an even digit"]},
        PROBABILITY,
        ([0.84, 0.88, 0.92, 0.96, 1], [0.8, 0.85, 0.9, 0.95, 1]),
        JUDGED,
        "satisfying_diversity",
    ),
    "compression": Task(
        "Compression",
        # Who accepts everything judges nothing: the classifier's features are what is wanted of it.
        {
            "backbone.weights": "fashion",
            "reward.name": "jpeg-compressibility",
            "heldout.name": "class-probability",
            "heldout.labels": ["clothing", "footwear", "bag"],
        },
        ([-0.9, -0.8, -0.7, -0.6, -0.5, -0.4, -0.3], [0, 0.2, 0.4, 0.6, 0.8, 1]),
        ([-0.85, -0.8, -0.75, -0.7, -0.65, -0.6], [0.75, 0.8, 0.85, 0.9, 0.95, 1]),
        {"reward": "reward_mean"},
        "diversity",
    ),
}
LINES = (*COLOURS, "#8c510a", "#999933", "#332288", "#882255", "#117733", "#aa4499", "#ddcc77")
ANCHORED, FREE = (0.03, 0.1, 0.3), (0.0, 0.1, 0.3)
ONCE = {"train.passes": 1}
METHODS: Mapping[str, tuple[Mapping[str, Any], Sequence[float]]] = {
    "default": ({}, (0.0, 0.03, 0.05, 0.1, 0.2, 0.3, 0.5, 1)),
    "once": (ONCE, (0.0, 0.03, 0.05, 0.1, 0.2, 0.3, 0.5, 1)),
    "alike": (ONCE | {"weighting.neighbours": 0, "weighting.fade": 0, "weighting.margin": 0.125}, ANCHORED),
    "exp": (ONCE | {"weighting.name": "exp"}, ANCHORED),
    "paper": ({}, (0.1, 0.3, 1)),
    "rwr": ({"train.name": "rwr"}, FREE),
    "raft": ({"train.name": "raft"}, FREE),
    "reft": ({"train.name": "reft"}, FREE),
    "reft-long": ({"train.name": "reft"}, (0.0,)),
    "awm": ({"train.name": "awm"}, (0.001, 0.03, 0.1, 0.3)),
    "nft": ({"train.name": "nft"}, (0.006, 0.02, 0.06, 0.2)),
    "nft-twice": ({"train.name": "nft", "train.passes": 2}, (0.2,)),
    "rvm": ({"train.name": "rvm"}, (0.001, 0.01, 0.03, 0.1)),
    "flow-grpo": ({"train.name": "flow-grpo"}, (0.004, 0.01, 0.04)),
}
"""Options, and alphas about what each proposes.

`once` is the default with points of its own for each update, `alike` that with the same weight for all points of a
sample and a margin, `exp` that with the paper's weights, `paper` the preset. `nft-twice` goes over its points twice, as
the default does. `reft-long` is `reft` for as many rounds as fit if the reference, which it needs for a metric alone,
does not count; that is four times the default's updates.
"""

Found = Mapping[str, float]


def measure(task: str, method: str, alpha: float, seed: int) -> Found:
    """Do a run."""
    torch.set_num_threads(1)
    options = {
        "reg.alpha": alpha,
        "train.seed": seed,
        "train.device": "cpu",
        **TASKS[task].options,
        **METHODS[method][0],
    }
    tables = merge(None, [], options, "paper" if method == "paper" else None)
    # What rounds cost: the first may draw a fixed set.
    trainer, state = assemble(resolve(tables, Registry()))
    points = trainer.config.samples * trainer.config.updates
    spared = points if method == "reft-long" else 0
    first, later = (int(trainer.round(state)["nfe"]) - spared for _ in range(2))
    tables["train"]["rounds"] = 1 + (EVALUATIONS - first) // later
    trainer, state = assemble(resolve(tables, Registry()))
    evaluations = sum(int(trainer.round(state)["nfe"]) - spared for _ in range(tables["train"]["rounds"]))
    if method == "flow-grpo":
        # Its steps are for training: ten of Euler would be measured beside a reference that is drawn more exactly.
        state.components = replace(state.components, sampler=start(task).components.sampler)
    found = {name: value for name, value in evaluate(state, SAMPLES).items() if isinstance(value, float)}
    return {**found, "evaluations": evaluations, "rounds": state.round}


def start(task: str, **options: Any) -> State:
    """A run that has not begun, with further options: its policy is the pre-trained model."""
    fixed = {**TASKS[task].options, "train.device": "cpu", **options}
    return assemble(resolve(merge(None, [], fixed), Registry()))[1]


def reference(task: str) -> Found:
    """The pre-trained model, measured likewise."""
    return {name: value for name, value in evaluate(start(task), SAMPLES).items() if isinstance(value, float)}


def curve_of(done: Mapping[str, Found], task: str, seed: int) -> list[tuple[float, float]]:
    """Score and diversity kept of the pre-trained model and of a seed's runs of the default that no other beats."""
    about, before = TASKS[task], done[task]
    score = list(about.scores.values())[-1]
    runs = [run for a in METHODS["default"][1] if (run := done.get(f"{task} default {a:g} {seed}"))]
    points = [(run[score], run[about.diversity] / before[about.diversity]) for run in runs]
    front: list[tuple[float, float]] = []
    for x, y in sorted(points, reverse=True):
        if not front or y > front[-1][1]:
            front.append((x, y))
    return [(before[score], 1.0), *reversed(front)]


def above(front: Sequence[tuple[float, float]], x: float, y: float) -> float | None:
    """How much more diversity is kept than on the line between the default's points; None further out than those."""
    for (x0, y0), (x1, y1) in pairwise(front):
        if x <= x1:
            return y - (y0 + (y1 - y0) * max(0.0, x - x0) / (x1 - x0))
    return None


def beside(gaps: Sequence[float | None]) -> str:
    """What `above` says for each seed, in a cell."""
    known = [gap for gap in gaps if gap is not None]
    if not known:
        return "further out" if gaps else ""
    of = f" ({len(known)} of {len(gaps)})" if len(known) < len(gaps) else ""
    cell = f"{statistics.mean(known):+.3f}"
    return f"{cell} ± {statistics.stdev(known) / len(known) ** 0.5:.3f}{of}" if len(known) > 1 else f"{cell}{of}"


def table(done: Mapping[str, Found], task: str, seeds: Sequence[int]) -> Iterator[str]:
    """A row for each method and alpha; draws the curves as well."""
    about, before = TASKS[task], done[task]
    yield row("", "alpha", *about.scores, "diversity kept", "above the default", "rounds", "seeds")
    yield row("pre-trained", "", *(f"{before[name]:.3f}" for name in about.scores.values()), "1.00", "", "", "")
    fronts = {seed: curve_of(done, task, seed) for seed in seeds}
    score = list(about.scores.values())[-1]
    series: list[Series] = []
    corner: list[Series] = []
    least, lowest = about.corner[0][0], about.corner[1][0]
    for i, (method, (_, alphas)) in enumerate(METHODS.items()):
        points = []
        for alpha in alphas:
            of_seed = {seed: run for seed in seeds if (run := done.get(f"{task} {method} {alpha:g} {seed}"))}
            runs = list(of_seed.values())
            if not runs:
                continue
            scores = [[run[name] for run in runs] for name in about.scores.values()]
            kept = [run.get(about.diversity, 0.0) / before[about.diversity] for run in runs]
            cells = [spread(values, 3) for values in scores]
            gaps = [
                above(fronts[seed], run[score], y)
                for (seed, run), y in zip(of_seed.items(), kept, strict=True)
                if method != "default" and len(fronts[seed]) > 1
            ]
            yield row(method, f"{alpha:g}", *cells, spread(kept, 2), beside(gaps), int(runs[0]["rounds"]), len(runs))
            points.append((statistics.mean(scores[-1]), statistics.mean(kept)))
        series += curve(method, LINES[i], points)
        corner += curve(method, LINES[i], [(x, y) for x, y in points if x >= least and y >= lowest])
    label = list(about.scores)[-1]
    panels = [Panel(about.title, label, "diversity kept", series, about.ticks)]
    panels.append(Panel("The upper right corner", label, "diversity kept", corner, about.corner))
    save(IMAGES / f"results-trainers-{task}.png", panels)


def curve(label: str, colour: str, points: Sequence[tuple[float, float]]) -> list[Series]:
    """A line and its dots; nothing without a point."""
    x, y = [x for x, _ in points], [y for _, y in points]
    return [Series(name, colour, x, y, not name) for name in (label, "")] if points else []


def spread(values: Sequence[float], decimals: int) -> str:
    """Mean and standard error, where there are several."""
    mean = f"{statistics.mean(values):.{decimals}f}"
    if len(values) < 2:
        return mean
    return f"{mean} ± {statistics.stdev(values) / len(values) ** 0.5:.{decimals}f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path, help="keeps what is done")
    parser.add_argument("--tasks", nargs="+", choices=list(TASKS), default=list(TASKS))
    parser.add_argument("--methods", nargs="+", choices=list(METHODS), default=list(METHODS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--jobs", type=int, default=1, help="runs at once")
    args = parser.parse_args()
    done: dict[str, Found] = json.loads(args.file.read_text()) if args.file.exists() else {}
    for task in args.tasks:
        done.setdefault(task, reference(task))
        missing = {
            f"{task} {method} {alpha:g} {seed}": (task, method, alpha, seed)
            for seed in args.seeds
            for method in args.methods
            for alpha in METHODS[method][1]
            if f"{task} {method} {alpha:g} {seed}" not in done
        }
        with ProcessPoolExecutor(args.jobs, multiprocessing.get_context("spawn"), max_tasks_per_child=1) as pool:
            running = {pool.submit(measure, *options): key for key, options in missing.items()}
            for future in as_completed(running):
                done[running[future]] = future.result()
                print(running[future], future.result(), flush=True)
                args.file.write_text(json.dumps(done, indent=1) + "\n")
        write(DOCS / "results.md", f"trainers-{task}", table(done, task, args.seeds))


if __name__ == "__main__":
    main()
