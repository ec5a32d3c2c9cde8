"""What a round of the default run costs beside its model, reward and optimiser calls.

    python benchmarks/overhead.py

Every call of the policy's and the reference's velocity, of backward, of the reward, of the held-out judge (with the
features for diversity) and of the optimiser's step is timed where it is made; the rest of the round is overhead.
Processor time, one thread.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from measure import default_run
from orwcfm_core.trainer import State

TARGET = 1.03


class Stopwatch:
    """Adds up the time that wrapped calls take; a call within a call counts once."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self.running = False

    def wrap(self, owner: Any, name: str) -> None:
        """Time every call of `owner.name`."""
        call: Callable[..., Any] = getattr(owner, name)

        def timed(*args: Any, **kwargs: Any) -> Any:
            if self.running:
                return call(*args, **kwargs)
            self.running, began = True, time.process_time()
            try:
                return call(*args, **kwargs)
            finally:
                self.running, self.seconds = False, self.seconds + time.process_time() - began

        setattr(owner, name, timed)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7, help="rounds to measure")
    args = parser.parse_args()

    trainer, state = default_run()
    watch = Stopwatch()
    watch_calls(watch, state)
    trainer.round(state)
    totals, ratios = [], []
    for _ in range(args.rounds):
        watch.seconds, began = 0.0, time.process_time()
        trainer.round(state)
        totals.append(time.process_time() - began)
        ratios.append(totals[-1] / watch.seconds)
    print(
        f"A round takes {statistics.median(ratios):.3f} times its model, reward and optimiser calls "
        f"({statistics.median(totals):.2f} s in all); target: at most {TARGET}"
    )


def watch_calls(watch: Stopwatch, state: State) -> None:
    """Time what a run cannot do without."""
    parts = state.components
    watch.wrap(parts.backbone.policy(), "velocity")
    watch.wrap(parts.backbone.reference(), "velocity")
    watch.wrap(torch.Tensor, "backward")
    watch.wrap(state.optimizer, "step")
    for judge in (*parts.objective.terms, *parts.heldout):
        watch.wrap(judge.reward, "score")
        watch.wrap(judge.reward, "features")


if __name__ == "__main__":
    main()
