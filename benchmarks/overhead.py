"""What a round costs beyond its bare model, reward and optimiser calls, as a ratio measured in one run.

    python benchmarks/overhead.py

Alternates rounds of the default run with a bare loop that makes the same calls on tensors of the same shapes: the
Euler steps, the reward, the held-out judge with its features, forward and backward of the policy, forward of the
reference and of the sampling policy, and the optimiser's step; nothing else. Prints the medians and their ratio.
"""

from __future__ import annotations

import argparse
import statistics
import time

import torch
from orwcfm_cli.assemble import assemble
from orwcfm_core.config import resolve
from orwcfm_core.registry import Registry
from orwcfm_core.trainer import State


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=10, help="pairs of a round and a bare loop")
    args = parser.parse_args()

    config = resolve({}, Registry())
    trainer, state = assemble(config)
    trainer.round(state)
    rounds, bare = [], []
    for _ in range(args.pairs):
        began = time.perf_counter()
        metrics = trainer.round(state)
        rounds.append(time.perf_counter() - began)
        # As many samples had a negative weight as evaluations were spent on them.
        update = config.train.samples * config.train.draws
        sampled = config.train.samples * metrics_nfe(state)
        negative = metrics["nfe"] - sampled - 2 * update * config.train.updates
        began = time.perf_counter()
        bare_round(state, negative // config.train.updates)
        bare.append(time.perf_counter() - began)
    ratio = statistics.median(r / b for r, b in zip(rounds, bare, strict=True))
    print(f"round {statistics.median(rounds):.3f} s, bare calls {statistics.median(bare):.3f} s, ratio {ratio:.3f}")


def metrics_nfe(state: State) -> int:
    """Model evaluations per sample of the default sampler, Euler: its steps."""
    steps: int = getattr(state.components.sampler, "steps")  # noqa: B009 (the abstract sampler has no steps)
    return steps


def bare_round(state: State, negative: int) -> None:
    """The calls of one round of the default run, with nothing around them."""
    parts = state.components
    policy, reference = parts.backbone.policy(), parts.backbone.reference()
    config = resolve({}, Registry()).train
    x = torch.randn(config.samples, *parts.backbone.sample_shape)
    prompts = list(parts.prompts) * config.samples
    with torch.no_grad(), state.autocast():
        for i in range(metrics_nfe(state)):
            policy.velocity(torch.tensor(i / 10), x, {})
    images = torch.rand_like(x)
    with torch.no_grad():
        parts.reward.score(images, prompts)
        for judge in parts.heldout.values():
            judge.score(images, prompts)
            judge.features(images)
    t = torch.rand(config.samples)
    for _ in range(config.updates):
        state.optimizer.zero_grad()
        with torch.no_grad(), state.autocast():
            policy.velocity(t[:negative], x[:negative], {})
            reference.velocity(t, x, {})
        with state.autocast():
            v = policy.velocity(t, x, {})
        v.float().square().mean().backward()
        # Zero: the weights must not move, but the step costs the same.
        for group in state.optimizer.param_groups:
            group["lr"] = 0.0
        state.optimizer.step()


if __name__ == "__main__":
    main()
