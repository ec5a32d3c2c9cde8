"""Metrics on cases that can be worked out by hand."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from orwcfm_core.evaluation import evaluate
from orwcfm_core.metrics import diversity, effective_sample_size, pixel_features
from orwcfm_core.reward import Judge, Reward, Scores
from torch import Tensor


@pytest.mark.parametrize(
    ("weights", "expected"),
    [([1.0] * 5, 1.0), ([0.0, 0, 7, 0], 0.25), ([1.0, -1, 1, -1], 1.0), ([3.0, 1], 0.8), ([0.0, 0], 0.0)],
)
def test_effective_sample_size(weights: list[float], expected: float) -> None:
    assert effective_sample_size(torch.tensor(weights)) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("features", "expected"),
    [
        ([[1.0, 0], [5, 0], [0.1, 0]], 0.0),
        ([[1.0, 0], [-3, 0]], 2.0),
        ([[1.0, 0], [0, 2]], math.sqrt(2)),
        ([[1.0, 0], [0, 2], [-4, 0]], (2 + 2 * math.sqrt(2)) / 3),
        ([[1.0, 2]], 0.0),
    ],
)
def test_diversity(features: list[list[float]], expected: float) -> None:
    assert diversity(torch.tensor(features)) == pytest.approx(expected, abs=1e-7)


@pytest.mark.parametrize("background", [0.0, 1.0])
def test_pictures_of_one_colour_but_for_a_speck_are_alike(lab: Any, background: float) -> None:
    """Where neither a judge nor the reward has features."""
    features = lab.start()[1].components.features
    specks = torch.full((64, 1, 28, 28), background)
    specks.view(64, -1).diagonal().copy_(torch.tensor(1 - background))
    noise = torch.rand(64, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    assert diversity(features(specks, specks)) < 0.2 < 1 < diversity(features(noise, noise))


class Embeds(Reward):
    """Scores points and embeds them as they are; NaN where the first coordinate is positive."""

    def score(self, images: Tensor, prompts: Sequence[str]) -> Scores:
        return Scores(images[:, 0])

    def features(self, images: Tensor) -> Tensor:
        return images.where(images[:, :1] <= 0, torch.nan)


def test_points_are_embedded_as_they_are_scored_and_what_is_no_number_is_left_out(lab: Any) -> None:
    trainer, state = lab.start()
    space = Judge("embeds", Embeds(), points=True)
    state.components.heldout = [space]
    x = torch.randn(20, 2, generator=torch.Generator().manual_seed(0))
    embedded = state.components.features(x, torch.zeros(20, 1, 1, 1))
    assert torch.equal(embedded.isfinite().all(1), x[:, 0] <= 0)
    found = [evaluate(state, 100)["diversity"], trainer.round(state)["diversity"]]
    assert all(0 < value < math.sqrt(2) for value in found), found


def test_pixel_features_keep_distances() -> None:
    images = torch.rand(5, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(torch.pdist(pixel_features(images)), torch.pdist(images.flatten(1)))
