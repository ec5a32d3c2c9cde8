"""Coupling: noise moves, samples and their weights stay."""

from __future__ import annotations

from itertools import permutations

import pytest
import torch
from orwcfm_core.coupling import couple, optimal_transport
from torch import Tensor


def pairs(n: int, seed: int, shape: tuple[int, ...] = (2,)) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(seed)
    return torch.randn(n, *shape, generator=g), 2 * torch.randn(n, *shape, generator=g) + 1


def cost(x_0: Tensor, x_1: Tensor) -> float:
    return float((x_0 - x_1).double().square().sum())


@pytest.mark.parametrize("seed", range(4))
def test_optimal_transport_equals_brute_force(seed: int) -> None:
    x_0, x_1 = pairs(6, seed)
    best = min(cost(x_0[list(order)], x_1) for order in permutations(range(6)))
    assert cost(optimal_transport(x_0, x_1), x_1) == pytest.approx(best)


@pytest.mark.parametrize("shape", [(3,), (1, 4, 4)])
def test_optimal_transport_permutes_noise_and_leaves_samples(shape: tuple[int, ...]) -> None:
    x_0, x_1 = pairs(40, 5, shape)
    before = x_1.clone()
    moved = couple("optimal-transport", x_0, x_1)
    assert torch.equal(x_1, before)
    assert {tuple(row.flatten().tolist()) for row in moved} == {tuple(row.flatten().tolist()) for row in x_0}
    assert cost(moved, x_1) < cost(x_0, x_1)


def test_optimal_transport_does_not_depend_on_the_order_of_the_noise() -> None:
    x_0, x_1 = pairs(30, 6)
    order = torch.randperm(30, generator=torch.Generator().manual_seed(0))
    assert torch.equal(optimal_transport(x_0[order], x_1), optimal_transport(x_0, x_1))


def test_optimal_transport_undoes_a_shuffle() -> None:
    x_1 = pairs(30, 7)[1]
    x_0 = x_1 + 1e-3
    order = torch.randperm(30, generator=torch.Generator().manual_seed(0))
    assert torch.equal(optimal_transport(x_0[order], x_1), x_0)


@pytest.mark.parametrize("seed", range(20))
def test_noise_of_equal_samples_keeps_its_order(seed: int) -> None:
    x_0, x_1 = pairs(12, seed)[0], pairs(4, seed)[1].repeat_interleave(3, dim=0)
    moved = optimal_transport(x_0, x_1)
    places = [x_0.tolist().index(row) for row in moved.tolist()]
    assert sorted(places) == list(range(12))
    assert all(places[i : i + 3] == sorted(places[i : i + 3]) for i in range(0, 12, 3))
    any_order = moved.view(4, 3, 2).flip(1).reshape(12, 2)
    assert cost(any_order, x_1) == pytest.approx(cost(moved, x_1))


def test_independent_is_the_noise_as_it_comes() -> None:
    x_0, x_1 = pairs(10, 8)
    assert torch.equal(couple("independent", x_0, x_1), x_0)
