"""Metrics on cases that can be worked out by hand."""

from __future__ import annotations

import math

import pytest
import torch
from orwcfm_core.metrics import diversity, effective_sample_size


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
