"""Scoring in another thread: the same numbers, in the time of sampling."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from orwcfm_core.errors import RunError
from orwcfm_core.objective import Objective, Term
from orwcfm_core.orw_cfm import OrwCfm
from orwcfm_core.overlap import pipelined
from orwcfm_core.reward import OnError
from orwcfm_core.testing.fakes import FunctionReward
from orwcfm_core.trainer import State
from orwcfm_core.weighting import Advantage
from torch import Tensor

PATIENCE = 20.0
"""Seconds after which a test has failed."""


def in_turn(items: Any, work: Any) -> list[Any]:
    """What `pipelined` must equal."""
    return [work(item) for item in items]


def test_each_is_worked_on_while_the_next_is_made() -> None:
    made = [threading.Event() for _ in range(4)]

    def items() -> Iterator[int]:
        for i in range(4):
            made[i].set()
            yield i

    def work(i: int) -> int:
        # Would never come back if the next were made only after this.
        assert i == 3 or made[i + 1].wait(PATIENCE)
        return 10 * i

    assert pipelined(items(), work) == [0, 10, 20, 30]


def test_what_work_raises_ends_the_making() -> None:
    failed, made = threading.Event(), []

    def items() -> Iterator[int]:
        for i in range(100):
            made.append(i)
            yield i
            failed.wait(PATIENCE)

    def work(i: int) -> int:
        failed.set()
        raise SystemExit("a reward that leaves")

    with pytest.raises(SystemExit, match="leaves"):
        pipelined(items(), work)
    assert len(made) < 100


def test_what_making_raises_comes_through_once_work_is_at_rest() -> None:
    done = []

    def items() -> Iterator[int]:
        yield 1
        raise RunError("no memory")

    with pytest.raises(RunError, match="no memory"):
        pipelined(items(), done.append)
    before = len(done)
    assert threading.active_count() == len([t for t in threading.enumerate() if t.name != "orwcfm-rewards"])
    assert len(done) == before <= 1


@pytest.mark.parametrize("flush", [False, True])
def test_denormal_numbers_are_what_they_are_in_this_thread(flush: bool) -> None:
    torch.set_flush_denormal(flush)
    found = pipelined([1, 2], lambda _: float(torch.tensor(1e-39) * 1))
    torch.set_flush_denormal(True)
    assert [value == 0 for value in found] == [flush, flush]


def several(state: State, shaky: Callable[[Tensor], Any], on_error: OnError) -> None:
    """Give a state two rewards, the second of which may fail, and two prompts."""
    terms = [
        Term("first", FunctionReward(lambda x: x[:, 0]), points=True, normalise="per-prompt"),
        Term("shaky", FunctionReward(shaky), points=True, weight=0.5, normalise="z-score", on_error=on_error),
    ]
    state.components = replace(state.components, objective=Objective(terms), prompts=("a", "b"))


# The default is frozen, so calls can share it.
def trained(lab: Any, parts: int, shaky: Callable[[Tensor], Any], on_error: OnError = OnError()) -> Any:  # noqa: B008
    """Metrics and parameters after two rounds."""
    torch.manual_seed(3)
    trainer, state = lab.start(weighting=Advantage(1.0, 1.0), alpha=0.2, ema=0.5, samples=22, overlap=parts)
    several(state, shaky, on_error)
    rows = [trainer.round(state) for _ in range(2)]
    for row in rows:
        del row["seconds"], row["samples_per_second"]
    return rows, [p.detach() for p in state.ema.parameters], torch.get_rng_state()


def moody(x: Tensor) -> Tensor:
    """Draws from the global random state, as no reward should, and gives up on some batches."""
    noise = torch.rand(len(x))
    if float(noise[0]) < 0.4:
        raise ValueError("not today")
    return x[:, 1] + noise


@pytest.mark.parametrize("on_error", [OnError("drop"), OnError("penalise", -1.0), OnError("drop", retries=2)])
def test_threads_change_no_number(lab: Any, monkeypatch: pytest.MonkeyPatch, on_error: OnError) -> None:
    found = trained(lab, 5, moody, on_error)
    monkeypatch.setattr("orwcfm_core.overlap.pipelined", in_turn)
    expected = trained(lab, 5, moody, on_error)
    assert found[0] == expected[0]
    assert on_error.action != "drop" or on_error.retries or any(row["invalid"] for row in found[0])
    assert all(torch.equal(p, q) for p, q in zip(found[1], expected[1], strict=True))
    assert torch.equal(found[2], expected[2])


@pytest.mark.parametrize("parts", [2, 5, 22, 1000])
def test_parts_change_nothing_beyond_rounding(lab: Any, parts: int) -> None:
    (_, found, _), (_, expected, _) = (trained(lab, count, lambda x: x[:, 1]) for count in (parts, 1))
    for p, q in zip(found, expected, strict=True):
        torch.testing.assert_close(p, q, rtol=1e-5, atol=1e-6)


def test_a_reward_that_fails_ends_the_run_with_its_name(lab: Any) -> None:
    with pytest.raises(RunError, match="reward 'shaky': ValueError: not today"):
        trained(lab, 22, moody)


def test_a_dropped_part_is_reported_once(lab: Any, caplog: pytest.LogCaptureFixture) -> None:
    calls = iter([True])

    def once(x: Tensor) -> Tensor:
        if next(calls, False):
            raise ValueError("cold start")
        return x[:, 1]

    with caplog.at_level(logging.WARNING):
        rows, _, _ = trained(lab, 2, once, OnError("drop"))
    assert [row["invalid"] for row in rows] == [11, 0]
    assert sum("cold start" in record.message for record in caplog.records) == 1


def test_sampling_goes_on_while_a_slow_reward_scores(lab: Any) -> None:
    trainer, state = lab.start(samples=24, overlap=4, steps=2)
    policy, sampler = state.components.backbone.policy(), state.components.sampler
    velocity, drawn, scored = policy.velocity, threading.Semaphore(0), []

    def counted(t: Tensor, x: Tensor, condition: Any) -> Tensor:
        if len(x) == 6:
            drawn.release()
        return velocity(t, x, condition)

    def slow(x: Tensor) -> Tensor:
        # This part's own evaluations, and the first of the next part, which is being drawn meanwhile.
        for _ in range(len(sampler.times) - 1 + (len(scored) == 0) - (len(scored) == 3)):
            assert drawn.acquire(timeout=PATIENCE)
        scored.append(len(x))
        return x[:, 0]

    policy.velocity = counted
    state.components.objective = Objective([Term("slow", FunctionReward(slow), points=True)])
    OrwCfm.round(trainer, state)
    assert scored == [6, 6, 6, 6]
