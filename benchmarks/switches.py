"""What each switch gives on the default run.

    python benchmarks/switches.py [--compile]

Processor time of a round on one thread, as a share of the default's in the same repeat; wall time for threads.
Compiling takes minutes, and is measured only when asked for.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Mapping
from typing import Any

import torch
from measure import alternating, default_run, ratio
from orwcfm_core.trainer import State, Trainer

SWITCHES: Mapping[str, dict[str, Any]] = {
    "default": {},
    "--precision fp32": {"precision": "fp32"},
    "--precision bf16": {"precision": "bf16"},
    "train.draws=2": {"draws": 2},
    "train.micro_batch=32": {"micro_batch": 32},
    "train.overlap=4": {"overlap": 4},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--compile", action="store_true", help="measure --compile alone")
    parser.add_argument("--repeats", type=int, default=3, help="rounds of each")
    args = parser.parse_args()
    if args.compile:
        measure_compile(args.repeats)
    else:
        measure_switches(torch.get_num_threads(), args.repeats)


def measure_switches(threads: int, repeats: int) -> None:
    runs = {name: default_run({"train": options}) for name, options in SWITCHES.items()}
    other, state = default_run()
    state.optimizer = torch.optim.AdamW(state.ema.parameters, lr=2e-4, betas=(0.9, 0.99), weight_decay=0.0)
    runs["AdamW that is not fused"] = other, state
    found = alternating({name: rounds(*run, 1) for name, run in runs.items()}, repeats)
    seconds = min(found["default"])
    print(f"The default round takes {seconds:.2f} s of processor time, in {runs['default'][1].precision}")
    for name in runs:
        if name != "default":
            print(f"`{name}`: {ratio(found, name, 'default'):.2f} times the default's time")
    calls = {str(count): rounds(*default_run(), count) for count in sorted({1, threads})}
    found = alternating(calls, repeats, clock=time.perf_counter)
    for count in calls:
        print(f"`--threads {count}`: {min(found[count]):.2f} s of wall time")
    print(agreement(runs))


def rounds(trainer: Trainer, state: State, threads: int) -> Callable[[], Any]:
    """A round with so many threads."""

    def call() -> None:
        torch.set_num_threads(threads)
        trainer.round(state)

    return call


def agreement(runs: Mapping[str, tuple[Trainer, State]]) -> str:
    """How far the samples of the pre-trained model in two precisions lie apart."""
    drawn, rewards = {}, {}
    noise = torch.randn(256, 1, 28, 28, generator=torch.Generator().manual_seed(5))
    for precision in ("fp32", "bf16"):
        _, state = default_run({"train": {"precision": precision}})
        parts = state.components
        prompts = [parts.prompts[0]] * len(noise)
        x_1, _ = state.sample(noise, prompts)
        drawn[precision] = parts.backbone.to_images(x_1)
        rewards[precision] = parts.objective.score(x_1, drawn[precision], prompts).values
    pixel = float((drawn["fp32"] - drawn["bf16"]).abs().mean())
    reward = float((rewards["fp32"] - rewards["bf16"]).mean().abs())
    deviation = float(rewards["fp32"].std())
    return (
        f"Pictures from the same noise in bf16 and fp32 differ by {pixel:.4f} of a pixel's range in the mean "
        f"(tolerance 0.01), their mean reward by {reward / deviation:.3f} of its standard deviation (tolerance 0.1)"
    )


def measure_compile(repeats: int) -> None:
    torch.compiler.config.force_disable_caches = True
    plain, began = default_run(), time.perf_counter()
    compiled = default_run({"train": {"compile": True}})
    compiling = time.perf_counter() - began
    found = alternating({"default": rounds(*plain, 1), "compiled": rounds(*compiled, 1)}, repeats)
    share = ratio(found, "compiled", "default")
    saved = min(found["default"]) - min(found["compiled"])
    pays = f"pays after {compiling / saved:.0f} rounds" if saved > 0 else "does not pay here"
    print(f"`--compile`: {share:.2f} times the default's time, after {compiling:.0f} s of compiling: {pays}")


if __name__ == "__main__":
    main()
