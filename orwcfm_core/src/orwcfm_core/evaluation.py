"""Measures a policy on fresh samples: the reference before training, the result after it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from orwcfm_core.metrics import correlation, diversity, mean_and_std
from orwcfm_core.trainer import State

__all__ = ["SATISFIED", "evaluate", "scales"]

SATISFIED = 0.5
"""A sample satisfies its prompt where a judge that gives probabilities gives at least this."""


@torch.no_grad()
def evaluate(state: State, count: int) -> dict[str, Any]:
    """Sample the sampling policy with noise of its own seed and measure what comes out.

    Args:
        state: The run; not changed, its random numbers included.
        count: Samples.

    Returns:
        `samples`, `reward_mean`, `reward_std`, `diversity`, and by judge `heldout_<name>`. Of the first judge whose
        scores are probabilities, also `satisfying_judge`, `satisfying_share` and `satisfying_diversity`: of the samples
        that it gives at least one half, None for fewer than two. Where the reward is composed of several, also
        `rewards`, the mean and std of each, and `correlations`, of each pair of them.
    """
    parts = state.components
    generator = torch.Generator(state.device).manual_seed(2**31 - 1)
    noise = torch.randn((count, *parts.backbone.sample_shape), generator=generator, device=state.device)
    prompts = [parts.prompts[i % len(parts.prompts)] for i in range(count)]
    drawn = state.sample(noise, prompts)[0]
    # As in a round: what is not a number is no sample.
    finite = drawn.flatten(1).isfinite().all(1)
    x_1 = drawn.nan_to_num(0.0, 0.0, 0.0)
    images = parts.backbone.to_images(x_1)
    scored = parts.objective.score(x_1, images, prompts)
    features = parts.features(x_1, images)
    embedded = finite & features.isfinite().all(1)
    valid = scored.valid & finite
    reward_mean, reward_std = mean_and_std(scored.values[valid])
    found: dict[str, Any] = {
        "samples": count,
        "reward_mean": reward_mean,
        "reward_std": reward_std,
        "diversity": diversity(features[embedded]),
    }
    if parts.objective.composed:
        found |= scales({name: scores[valid] for name, scores in scored.raw.items()})
    for judge in parts.heldout:
        judged, judgeable = judge.score(x_1, images, prompts)
        judgeable = judgeable & finite
        found[f"heldout_{judge.name}"] = mean_and_std(judged[judgeable])[0]
        if judge.probability and "satisfying_judge" not in found:
            satisfying = judgeable & (judged >= SATISFIED)
            found["satisfying_judge"] = judge.name
            found["satisfying_share"] = float(satisfying.float().mean())
            satisfying = satisfying & embedded
            # Of a single sample, or none, it is not 0: nobody knows.
            found["satisfying_diversity"] = diversity(features[satisfying]) if int(satisfying.sum()) >= 2 else None
    return found


def scales(scores: Mapping[str, Tensor]) -> dict[str, Any]:
    """How large and how alike the scores of several rewards are.

    Args:
        scores: By reward, `(N,)`.

    Returns:
        `rewards`, `{name: {mean, std}}`, and `correlations`, `{first: {second: Pearson's}}`; None of a constant.
    """
    names = list(scores)
    return {
        "rewards": {name: dict(zip(("mean", "std"), mean_and_std(scores[name]), strict=True)) for name in names},
        "correlations": {
            first: {second: correlation(scores[first], scores[second]) for second in names[i + 1 :]}
            for i, first in enumerate(names[:-1])
        },
    }
