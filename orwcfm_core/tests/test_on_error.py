"""What becomes of a reward's failure, batch by batch."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from orwcfm_core.errors import RunError, UserError
from orwcfm_core.reward import Judge, OnError, Reward, Scores, score
from torch import Tensor


class Script(Reward):
    """Does one thing after the other."""

    def __init__(self, *outcomes: Any) -> None:
        self.outcomes = list(outcomes)

    def score(self, images: Tensor, prompts: Sequence[str]) -> Scores:
        outcome = self.outcomes.pop(0)
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome


GOOD = torch.tensor([1.0, 2.0, 3.0])
BROKEN = torch.tensor([1.0, torch.nan, -torch.inf])


def ask(on_error: str, *outcomes: Any) -> tuple[list[float], list[bool], Script]:
    reward = Script(*outcomes)
    values, valid = score("shine", reward, torch.zeros(3, 1, 2, 2), [""] * 3, OnError.parse(on_error))
    assert values.dtype == torch.float32
    assert values.isfinite().all()
    return values.tolist(), valid.tolist(), reward


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("fail", OnError("fail", 0.0, 0)),
        ("drop", OnError("drop", 0.0, 0)),
        ("retry(0)", OnError("fail", 0.0, 0)),
        ("retry(12)", OnError("fail", 0.0, 12)),
        ("penalise(-1)", OnError("penalise", -1.0, 0)),
        ("penalise(+2.5e-3)", OnError("penalise", 0.0025, 0)),
    ],
)
def test_policies_are_read(text: str, expected: OnError) -> None:
    assert OnError.parse(text) == expected


@pytest.mark.parametrize("on_error", ["fail", "drop", "retry(3)", "penalise(-7)"])
def test_a_good_answer_is_what_it_is(on_error: str) -> None:
    assert ask(on_error, GOOD)[:2] == ([1, 2, 3], [True] * 3)


def test_drop_keeps_what_is_good() -> None:
    assert ask("drop", BROKEN)[:2] == ([1, 0, 0], [True, False, False])
    assert ask("drop", ValueError("no"))[:2] == ([0, 0, 0], [False] * 3)


def test_penalise_scores_what_is_bad_and_nothing_else() -> None:
    assert ask("penalise(-7)", BROKEN)[:2] == ([1, -7, -7], [True] * 3)
    assert ask("penalise(-7)", ValueError("no"))[:2] == ([-7, -7, -7], [True] * 3)
    # What the reward itself says it cannot score is no failure.
    refused = Scores(BROKEN, torch.tensor([True, False, True]))
    assert ask("penalise(-7)", refused)[:2] == ([1, 0, -7], [True, False, True])


def test_retry_asks_as_often_as_it_says() -> None:
    values, valid, reward = ask("retry(2)", ValueError("no"), BROKEN, GOOD, GOOD)
    assert (values, valid) == ([1, 2, 3], [True] * 3)
    assert len(reward.outcomes) == 1
    reward = Script(*[ValueError(f"no {i}") for i in range(5)])
    with pytest.raises(RunError, match="reward 'shine': ValueError: no 2"):
        score("shine", reward, torch.zeros(3, 1), [""] * 3, OnError.parse("retry(2)"))
    assert len(reward.outcomes) == 2


@pytest.mark.parametrize("on_error", ["drop", "retry(2)", "penalise(0)"])
def test_a_mistake_of_the_user_is_no_failure_of_the_reward(on_error: str) -> None:
    # Such as a prompt that it cannot read: it would be wrong in every round.
    with pytest.raises(UserError, match="reward 'shine': no such label"):
        ask(on_error, UserError("no such label"), GOOD)


@pytest.mark.parametrize("on_error", ["drop", "retry(2)", "penalise(0)"])
def test_an_interrupt_is_no_failure_of_the_reward(on_error: str) -> None:
    with pytest.raises(KeyboardInterrupt):
        ask(on_error, KeyboardInterrupt(), GOOD)


def test_every_failure_is_said(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        ask("drop", BROKEN)
        ask("penalise(-1)", ValueError("no\nluck"))
        ask("retry(1)", ValueError("no"), GOOD)
    assert caplog.messages == [
        "reward 'shine': returned NaN or infinity for 2 of 3 images: they are left out",
        "reward 'shine': ValueError: no luck: they score -1",
        "reward 'shine': ValueError: no; trying again",
    ]


@pytest.mark.parametrize("scale", [1e300, -1e300])
def test_scores_beyond_float32_are_a_failure(scale: float) -> None:
    values, valid, _ = ask("drop", torch.tensor([1.0, scale, 2.0], dtype=torch.float64))
    assert (values, valid) == ([1, 0, 2], [True, False, True])


def test_a_judge_has_its_own_policy() -> None:
    judge = Judge("shine", Script(BROKEN), on_error=OnError.parse("drop"))
    assert judge.score(torch.zeros(3, 2), torch.zeros(3, 1, 2, 2), [""] * 3)[1].tolist() == [True, False, False]
