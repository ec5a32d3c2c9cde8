"""What a reward that takes 0.5 s for a round's samples costs, with and without `train.overlap`.

    python benchmarks/overlap.py

Drawing and scoring the 128 samples of the default run, with a reward that waits in proportion to its images before it
scores, as one on a network or in a process of its own does. Wall time, one thread; what can be hidden is at most the
time of sampling.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial

from measure import alternating, default_run
from orwcfm_core.overlap import draw_and_score
from orwcfm_core.reward import Reward, Scores
from orwcfm_core.trainer import State
from torch import Tensor

TARGET = 0.1
WAIT, PARTS, COUNT = 0.5, 8, 128


class Slow(Reward):
    """Waits, then scores as another does.

    Args:
        reward: The other.
        seconds: For each image.
    """

    def __init__(self, reward: Reward, seconds: float) -> None:
        self.reward = reward
        self.seconds = seconds

    def score(self, images: Tensor, prompts: Sequence[str]) -> Scores:
        time.sleep(len(images) * self.seconds)
        return self.reward.score(images, prompts)


def main() -> None:
    calls: dict[str, Callable[[], object]] = {}
    for parts in (1, PARTS):
        for wait in (0.0, WAIT):
            _, state = default_run()
            noise, prompts = state.noise(COUNT), [state.components.prompts[0]] * COUNT
            slow_down(state, wait / COUNT)
            calls[f"{parts} {wait}"] = partial(draw_and_score, state, noise, prompts, parts, state.sample)
    calls["sampling"] = partial(state.sample, noise, prompts)
    # What disturbs only ever adds: the shortest of each kind.
    best = {name: min(found) for name, found in alternating(calls, repeats=11, clock=time.perf_counter).items()}
    added = {parts: best[f"{parts} {WAIT}"] - best[f"{parts} 0.0"] for parts in (1, PARTS)}
    print(
        f"A reward of {WAIT} s adds {added[PARTS]:.2f} s to a round with train.overlap={PARTS}, and {added[1]:.2f} s "
        f"without; target: at most {TARGET}, where sampling takes as long as the reward; here it takes "
        f"{best['sampling']:.2f} s"
    )
    print(
        f"Without waiting, drawing and scoring takes {best[f'{PARTS} 0.0']:.2f} s in {PARTS} parts and "
        f"{best['1 0.0']:.2f} s at once"
    )


def slow_down(state: State, seconds: float) -> None:
    """Make the reward wait; arguments as of `Slow`."""
    (term,) = state.components.objective.terms
    object.__setattr__(term, "reward", Slow(term.reward, seconds))


if __name__ == "__main__":
    main()
