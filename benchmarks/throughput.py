"""Sampling, against a loop of Euler steps without anything around it.

    python benchmarks/throughput.py

Processor time, one thread, 128 samples in 10 steps; the shortest of 15 counts.
"""

from __future__ import annotations

import torch
from measure import alternating, default_run
from torch import Tensor

TARGET = 0.98
COUNT, STEPS = 128, 10


def main() -> None:
    _, state = default_run()
    policy, noise = state.components.backbone.policy(), state.noise(COUNT)

    @torch.no_grad()
    def bare() -> Tensor:
        x = noise
        with state.autocast():
            for i in range(STEPS):
                x = x + policy.velocity(torch.tensor(i / STEPS), x, {}) / STEPS
        return x

    found = alternating({"bare": bare, "ours": lambda: state.sample(noise, [""] * COUNT)}, repeats=15)
    print(
        f"Sampling runs at {min(found['bare']) / min(found['ours']):.3f} of the speed of a bare loop of Euler steps "
        f"({COUNT / min(found['ours']):.0f} samples/s); target: at least {TARGET}"
    )


if __name__ == "__main__":
    main()
