"""Measures a policy on fresh samples: the reference before training, the result after it."""

from __future__ import annotations

from typing import Any

import torch

from orwcfm_core.metrics import diversity
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
        all in [0, 1], also `satisfying_judge`, `satisfying_share` and `satisfying_diversity`: of the samples that it
        gives at least one half.
    """
    parts = state.components
    generator = torch.Generator(state.device).manual_seed(2**31 - 1)
    noise = torch.randn((count, *parts.backbone.sample_shape), generator=generator, device=state.device)
    prompts = [parts.prompts[i % len(parts.prompts)] for i in range(count)]
    x_1, _ = state.sample(noise, prompts, micro_batch)
    images = parts.backbone.to_images(x_1)
    values, valid = score(parts.reward_name, parts.reward, parts.shown(parts.reward_name, x_1, images), prompts)
    features = parts.features(images)
    found: dict[str, Any] = {
        "samples": count,
        "reward_mean": float(values[valid].mean()) if valid.any() else 0.0,
        "reward_std": float(values[valid].std(correction=0)) if valid.any() else 0.0,
        "diversity": diversity(features),
    }
    for name, judge in parts.heldout.items():
        judged, judgeable = score(name, judge, parts.shown(name, x_1, images), prompts)
        found[f"heldout_{name}"] = float(judged[judgeable].mean()) if judgeable.any() else 0.0
        # A probability may leave [0, 1] by rounding.
        if -1e-5 <= float(judged.min()) and float(judged.max()) <= 1 + 1e-5:
            satisfying = judgeable & (judged >= SATISFIED)
            found["satisfying_judge"] = name
            found["satisfying_share"] = float(satisfying.float().mean())
            found["satisfying_diversity"] = diversity(features[satisfying])
    return found
