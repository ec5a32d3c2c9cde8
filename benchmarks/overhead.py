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
from orwcfm_core.config import TrainConfig
from orwcfm_core.registry import Registry
from orwcfm_core.resolve import resolve
from orwcfm_core.sampler import FixedStep
from orwcfm_core.trainer import State


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=15, help="pairs of a round and a bare loop")
    args = parser.parse_args()

    config = resolve({}, Registry())
    trainer, state = assemble(config)
    trainer.round(state)
    rounds, bare = [], []
    for _ in range(args.pairs):
        began = time.perf_counter()
        metrics = trainer.round(state)
        rounds.append(time.perf_counter() - began)
        began = time.perf_counter()
        bare_round(state, config.train, metrics["nfe"])
        bare.append(time.perf_counter() - began)
    ratio = statistics.median(r / b for r, b in zip(rounds, bare, strict=True))
    print(f"round {statistics.median(rounds):.3f} s, bare calls {statistics.median(bare):.3f} s, ratio {ratio:.3f}")


def bare_round(state: State, train: TrainConfig, nfe: int) -> None:
    """The calls of one round of the default run, with nothing around them.

    Args:
        state: Of the run; its weights do not move.
        train: Its options.
        nfe: Model evaluations of the round that it is compared with.
    """
    parts = state.components
    policy, reference, sampler = parts.backbone.policy(), parts.backbone.reference(), parts.sampler
    assert isinstance(sampler, FixedStep)
    # What is left of the evaluations was spent on v_old, at samples of negative weight.
    negative = (nfe - train.samples * (sampler.steps + 2 * train.updates)) // train.updates
    x = torch.randn(train.samples, *parts.backbone.sample_shape, device=state.device)
    prompts = list(parts.prompts) * train.samples
    with torch.no_grad(), state.autocast():
        for i in range(sampler.steps):
            policy.velocity(torch.tensor(i / sampler.steps, device=state.device), x, {})
    images = torch.rand_like(x)
    with torch.no_grad():
        parts.reward.score(images, prompts)
        for judge in parts.heldout.values():
            judge.score(images, prompts)
            judge.features(images)
    t = torch.rand(train.samples, device=state.device)
    for group in state.optimizer.param_groups:
        group["lr"] = 0.0
    for _ in range(train.updates):
        state.optimizer.zero_grad()
        with torch.no_grad(), state.autocast():
            policy.velocity(t[:negative], x[:negative], {})
            reference.velocity(t, x, {})
        with state.autocast():
            v = policy.velocity(t, x, {})
        v.float().square().mean().backward()
        state.optimizer.step()


if __name__ == "__main__":
    main()
