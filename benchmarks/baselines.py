"""What the baselines of points are worth at the first round: how much of the advantages they tell, and their mean.

    python benchmarks/baselines.py

2,048 samples of the pre-trained U-Nets in rounds of 128, a point on the path to each at every time. Writes a table of
docs/results.md; a minute on one thread.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from orwcfm_cli.assemble import assemble
from orwcfm_cli.options import merge
from orwcfm_core.config import AdvantageConfig
from orwcfm_core.orw_cfm import OrwCfm
from orwcfm_core.registry import Registry
from orwcfm_core.resolve import resolve
from orwcfm_core.weighting import nearest_mean
from page import DOCS, row, write
from torch import Tensor
from trainers import SAMPLES, TASKS

TIMES = (0.1, 0.3, 0.5, 0.7, 0.9)
ROUND = 128


def collected(task: str) -> tuple[Tensor, Tensor]:
    """Samples of the pre-trained model, `(N, *)`, and their advantages in standard deviations, `(N,)`."""
    options = {**TASKS[task].options, "train.device": "cpu", "train.samples": SAMPLES, "weighting.tau": 1}
    trainer, state = assemble(resolve(merge(None, [], options), Registry()))
    assert isinstance(trainer, OrwCfm)
    rollout = trainer.collect(state)
    advantages = state.components.weighting.weights(rollout.scored.signal, rollout.valid, rollout.groups)
    return rollout.x_1, advantages


def table() -> Iterator[str]:
    """A row for each task and time."""
    yield row("task", "t", "mean of V", "correlation of V and A", "variance of A - V, of that of A")
    known = torch.ones(ROUND, dtype=torch.bool), torch.zeros(ROUND, dtype=torch.long)
    g = torch.Generator().manual_seed(0)
    for task in TASKS:
        x_1, advantages = collected(task)
        for time in TIMES:
            t, found = torch.full((ROUND,), time), []
            for x, a in zip(x_1.split(ROUND), advantages.split(ROUND), strict=True):
                x_t = (1 - time) * torch.randn(x.shape, generator=g) + time * x
                a = a - a.mean()
                found.append((a, nearest_mean(AdvantageConfig().neighbours, a, t, x_t, x, *known)))
            a, v = (torch.cat(parts) for parts in zip(*found, strict=True))
            correlation = float(torch.corrcoef(torch.stack([a, v]))[0, 1])
            yield row(task, time, f"{v.mean():.2f}", f"{correlation:.2f}", f"{(a - v).var() / a.var():.2f}")


if __name__ == "__main__":
    torch.set_num_threads(1)
    write(DOCS / "results.md", "baselines", table())
