"""Compiled fields: one shape for everything, the same velocities, and one line where it cannot be."""

from __future__ import annotations

import shutil
from typing import Any

import pytest
import torch
from orwcfm_core.compiled import Compiled
from orwcfm_core.errors import RunError, UserError
from orwcfm_core.evaluation import evaluate
from orwcfm_core.testing.fakes import AffineBackbone, perturb
from orwcfm_core.weighting import Advantage
from torch import Tensor


def parameters(state: Any) -> list[Tensor]:
    return [p.detach().clone() for p in state.ema.parameters]


def train(lab: Any, **options: Any) -> tuple[Any, Any]:
    trainer, state = lab.start(weighting=Advantage(1.0, 1.0), alpha=0.2, ema=0.5, updates=2, **options)
    for _ in range(2):
        trainer.round(state)
    return trainer, state


@pytest.fixture
def shapes(monkeypatch: pytest.MonkeyPatch) -> set[tuple[Any, ...]]:
    """Shapes that compiled functions are called with; nothing is compiled."""
    seen: set[tuple[Any, ...]] = set()

    def compile(function: Any, **options: Any) -> Any:
        assert options == {"dynamic": False}

        def recorded(t: Tensor, x: Tensor, condition: Any) -> Tensor:
            seen.add((t.shape, x.shape, x.stride()))
            return function(t, x, condition)

        return recorded

    monkeypatch.setattr(torch, "compile", compile)
    return seen


@pytest.mark.parametrize(
    ("options", "rows"),
    [({}, 20), ({"micro_batch": 7}, 7), ({"draws": 3}, 20), ({"overlap": 3}, 7), ({"micro_batch": 64}, 20)],
)
def test_all_shapes_are_one_and_the_result_is_the_same(
    lab: Any, shapes: set[tuple[Any, ...]], options: dict[str, int], rows: int
) -> None:
    _, expected = train(lab, samples=20, **options)
    _, state = train(lab, samples=20, compile=True, **options)
    evaluate(state, 33)
    assert shapes == {((rows,), (rows, 2), (2, 1))}
    for p, q in zip(parameters(state), parameters(expected), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-5, atol=1e-6)


def test_out_of_memory_halves_the_padding_as_well(lab: Any, shapes: set[tuple[Any, ...]]) -> None:
    trainer, state = lab.start(samples=64, compile=True)
    policy = state.components.backbone.policy()
    compiled = policy._compiled

    def cramped(t: Tensor, x: Tensor, condition: Any) -> Tensor:
        if len(x) > 20:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
        return compiled(t, x, condition)

    policy._compiled = cramped
    trainer.round(state)
    assert state.micro_batch == 16
    policy._compiled = lambda *args: (_ for _ in ()).throw(MemoryError())
    with pytest.raises(RunError, match="out of memory with a single sample"):
        trainer.round(state)


def test_without_a_compiler_one_line_says_so(lab: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(UserError, match=r"train\.compile: .* needs a C\+\+ compiler, and there is neither g\+\+ nor"):
        lab.start(compile=True)


def test_what_cannot_be_compiled_is_one_line(lab: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: Any) -> Tensor:
        raise RuntimeError("no such\n\n operator")

    monkeypatch.setattr(torch, "compile", lambda function, dynamic: refuse)
    with pytest.raises(UserError, match=r"^train\.compile: RuntimeError: no such operator$"):
        lab.start(compile=True)


@pytest.mark.slow
@pytest.mark.skipif(not (shutil.which("g++") or shutil.which("clang++")), reason="there is no C++ compiler")
def test_a_compiled_field_follows_its_parameters_and_their_average(lab: Any) -> None:
    trainer, state = lab.start(samples=8, compile=True, ema=0.5)
    assert isinstance(state.components.backbone, Compiled)
    assert all(p.grad is None for p in state.ema.parameters)
    policy, plain = state.components.backbone.policy(), AffineBackbone().policy()
    perturb(policy.parameters())
    trainer.round(state)
    t, x = torch.rand(5), torch.randn(5, 2)

    def expect_the_same() -> None:
        for p, q in zip(plain.parameters().values(), policy.parameters().values(), strict=True):
            p.data = q.data.clone()
        torch.testing.assert_close(policy.velocity(t, x, {}), plain.velocity(t, x, {}))

    expect_the_same()
    before = policy.velocity(t, x, {}).detach()
    with state.ema.swapped():
        expect_the_same()
        assert not torch.allclose(policy.velocity(t, x, {}).detach(), before)
    expect_the_same()
    assert torch.equal(policy.velocity(t, x, {}).detach(), before)
