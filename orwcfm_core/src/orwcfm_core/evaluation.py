"""Measures a policy on fresh samples: the reference before training, the result after it."""

from __future__ import annotations

from typing import Any

import torch

from orwcfm_core.metrics import diversity, mean_and_std
from orwcfm_core.reward import score
from orwcfm_core.trainer import State

__all__ = ["SATISFIED", "evaluate"]

SATISFIED = 0.5
"""A sample satisfies its prompt where a judge that gives probabilities gives at least this."""


@torch.no_grad()
def evaluate(state: State, count: int, micro_batch: int) -> dict[str, Any]:
    """Sample the sampling policy with noise of its own seed and measure what comes out.

    Args:
        state: The run; not changed, its random numbers included.
        count: Samples.
        micro_batch: Samples in memory at once.

    Returns:
        `samples`, `reward_mean`, `reward_std`, `diversity`, and by judge `heldout_<name>`. Where a judge's scores are
        probabilities, also `satisfying_judge`, `satisfying_share` and `satisfying_diversity`: of the samples that it
        gives at least one half.
    """
    parts = state.components
    generator = torch.Generator(state.device).manual_seed(2**31 - 1)
    noise = torch.randn((count, *parts.backbone.sample_shape), generator=generator, device=state.device)
    prompts = [parts.prompts[i % len(parts.prompts)] for i in range(count)]
    x_1 = state.sample(noise, prompts, micro_batch)[0].nan_to_num(0.0, 0.0, 0.0)
    images = parts.backbone.to_images(x_1)
    values, valid = score(parts.reward_name, parts.reward, parts.shown(parts.reward_name, x_1, images), prompts)
    features = parts.features(images)
    reward_mean, reward_std = mean_and_std(values[valid])
    found: dict[str, Any] = {
        "samples": count,
        "reward_mean": reward_mean,
        "reward_std": reward_std,
        "diversity": diversity(features),
    }
    for name, judge in parts.heldout.items():
        judged, judgeable = score(name, judge, parts.shown(name, x_1, images), prompts)
        found[f"heldout_{name}"] = mean_and_std(judged[judgeable])[0]
        if name in parts.probabilities:
            satisfying = judgeable & (judged >= SATISFIED)
            found["satisfying_judge"] = name
            found["satisfying_share"] = float(satisfying.float().mean())
            found["satisfying_diversity"] = diversity(features[satisfying])
    return found
