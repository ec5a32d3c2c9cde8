"""Whether the default stays where it arrives: ten times the rounds that it needs to converge, measured all along.

    python benchmarks/long_runs.py long_runs.json --jobs 2

Footwear on the shipped Fashion-MNIST U-Net with the small CLIP as the reward, 400 rounds, five seeds, one thread each;
every 20 rounds 1,024 fresh samples are drawn, from the same noise. A run of one seed takes a quarter to half an hour
of one core. The file keeps what is done: seeds that are in it are not run again, and the table in docs/results.md has
all of them. With `--set`, the table is only printed.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from orwcfm_cli.assemble import assemble
from orwcfm_cli.options import merge
from orwcfm_core.evaluation import evaluate
from orwcfm_core.registry import Registry
from orwcfm_core.resolve import resolve
from page import DOCS, row, write

SAMPLES, EVERY, WITHIN = 1024, 20, 10
JUDGE = "heldout_class-probability"


@dataclass(frozen=True)
class History:
    """What a run went through.

    Args:
        judge: Mean of the held-out judge, every `EVERY` rounds.
        diversity: Of the samples that satisfy it, as a share of the reference's, every `EVERY` rounds.
        divergence: Velocity divergence of each round.
    """

    judge: Sequence[float]
    diversity: Sequence[float]
    divergence: Sequence[float]


def measure(rounds: int, seed: int, settings: Sequence[str]) -> History:
    """Do a run."""
    torch.set_num_threads(1)
    fixed = {"train.rounds": rounds, "train.seed": seed, "train.device": "cpu"}
    config = resolve(merge(None, settings, fixed), Registry())
    trainer, state = assemble(config)
    reference = evaluate(state, SAMPLES)
    judge, diversity, divergence = [], [], []
    for done in range(1, rounds + 1):
        divergence.append(float(trainer.round(state)["velocity_divergence"]))
        if done % EVERY == 0:
            found = evaluate(state, SAMPLES)
            judge.append(found[JUDGE])
            diversity.append(found["satisfying_diversity"] / reference["satisfying_diversity"])
            print(f"seed {seed} {done} {judge[-1]:.4f} {diversity[-1]:.3f} {max(divergence[-EVERY:]):.4f}", flush=True)
    return History(judge, diversity, divergence)


def fall(values: Sequence[float]) -> float:
    """Largest fall below the best value before, as a share of that."""
    return max(1 - value / max(values[: i + 1]) for i, value in enumerate(values))


def growth(values: Sequence[float], window: int) -> float:
    """How many times a mean over `window` values is that over the `window` before, at most."""
    means = [sum(values[i : i + window]) / window for i in range(len(values) - window + 1)]
    return max(after / before for before, after in zip(means, means[window:], strict=False))


def table(histories: Mapping[int, History], converged: int) -> Iterator[str]:
    """A row for each seed, of what came after the round `converged`."""
    yield row(
        "seed",
        f"judge, round {converged}",
        "best",
        "last",
        "largest fall",
        "diversity kept, least",
        "last",
        "largest fall",
        "divergence, most",
        f"largest growth of its mean over {WITHIN} rounds",
    )
    first = converged // EVERY - 1
    for seed, history in sorted(histories.items()):
        judge, diversity = history.judge[first:], history.diversity[first:]
        divergence = history.divergence[converged - WITHIN :]
        scores = [f"{judge[0]:.3f}", f"{max(judge):.3f}", f"{judge[-1]:.3f}", f"{fall(judge):.1%}"]
        kept = [f"{min(diversity):.2f}", f"{diversity[-1]:.2f}", f"{fall(diversity):.1%}"]
        yield row(seed, *scores, *kept, f"{max(divergence):.3f}", f"{growth(divergence, WITHIN):.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path, help="keeps what is done")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--rounds", type=int, default=400)
    parser.add_argument(
        "--set", action="append", default=[], help="section.option=value, as in orwcfm run; needs a file of its own"
    )
    parser.add_argument("--converged", type=int, default=40, help="round after which it is to stay")
    parser.add_argument("--jobs", type=int, default=1, help="runs at once")
    args = parser.parse_args()
    kept = json.loads(args.file.read_text()) if args.file.exists() else {}
    done = {int(seed): History(**history) for seed, history in kept.items()}
    with ProcessPoolExecutor(args.jobs, multiprocessing.get_context("spawn"), max_tasks_per_child=1) as pool:
        running = {pool.submit(measure, args.rounds, seed, args.set): seed for seed in args.seeds if seed not in done}
        for future in as_completed(running):
            done[running[future]] = future.result()
            args.file.write_text(json.dumps({seed: asdict(history) for seed, history in sorted(done.items())}) + "\n")
    if args.set:
        print(*table(done, args.converged), sep="\n")
    else:
        write(DOCS / "results.md", "long-runs", table(done, args.converged))


if __name__ == "__main__":
    main()
