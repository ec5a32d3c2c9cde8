"""The sampling policy's average."""

from __future__ import annotations

import math

import pytest
import torch
from orwcfm_core.ema import EMA


def test_decay_zero_is_a_copy() -> None:
    p = torch.nn.Parameter(torch.randn(3, generator=torch.Generator().manual_seed(0)))
    ema = EMA([p], 0.0)
    with torch.no_grad():
        p.mul_(-2.5)
    ema.update(0)
    torch.testing.assert_close(ema.average[0], p.detach())
    assert ema.average[0].data_ptr() != p.data_ptr()


@pytest.mark.parametrize("decay", [0.5, 0.9])
def test_average_of_a_constant_approaches_it_geometrically(decay: float) -> None:
    p = torch.nn.Parameter(torch.zeros(2, dtype=torch.float64))
    ema = EMA([p], decay)
    with torch.no_grad():
        p.fill_(1.0)
    for n in range(1, 6):
        ema.update(n - 1)
        torch.testing.assert_close(ema.average[0], torch.full((2,), 1 - decay**n, dtype=torch.float64))


def test_a_growing_average_spans_a_share_of_what_was_done() -> None:
    p = torch.nn.Parameter(torch.zeros(1, dtype=torch.float64))
    ema = EMA([p], 0.8, growth=0.05)
    lags = []
    for k in range(4001):
        with torch.no_grad():
            p.fill_(float(k))
        ema.update(k)
        lags.append(k - float(ema.average[0]))
    # How far it is behind a ramp: d lag / dk = 1 - lag / (span k), hence lag = span k / (1 + span).
    span = -0.05 / math.log(0.8)
    assert lags[4000] == pytest.approx(4000 * span / (1 + span), rel=0.02)
    assert lags[2000] == pytest.approx(lags[4000] / 2, rel=0.02)


def test_a_hard_copy_stays_one_however_it_grows() -> None:
    p = torch.nn.Parameter(torch.ones(1))
    ema = EMA([p], 0.0, growth=0.5)
    with torch.no_grad():
        p.fill_(7.0)
    ema.update(100)
    assert ema.average[0].item() == 7.0


def test_swapped_computes_with_the_average_and_restores() -> None:
    p = torch.nn.Parameter(torch.tensor([1.0]))
    ema = EMA([p], 0.5)
    with torch.no_grad():
        p.fill_(3.0)
    ema.update(0)
    with ema.swapped():
        assert p.item() == 2.0
    assert p.item() == 3.0
    assert ema.average[0].item() == 2.0


def test_swapped_restores_after_an_error() -> None:
    p = torch.nn.Parameter(torch.tensor([1.0]))
    ema = EMA([p], 0.5)
    with torch.no_grad():
        p.fill_(3.0)
    with pytest.raises(ZeroDivisionError), ema.swapped():
        raise ZeroDivisionError
    assert (p.item(), ema.average[0].item()) == (3.0, 1.0)


def test_optimizer_still_moves_the_trained_parameters_after_a_swap() -> None:
    p = torch.nn.Parameter(torch.tensor([1.0]))
    ema = EMA([p], 0.0)
    optimizer = torch.optim.SGD([p], lr=0.1)
    with ema.swapped():
        pass
    p.square().sum().backward()
    optimizer.step()
    assert p.item() == pytest.approx(0.8)
    assert ema.average[0].item() == 1.0
