"""The check of what a reward returns."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from orwcfm_core.errors import RunError
from orwcfm_core.reward import Reward, Scores, score
from torch import Tensor


class Returns(Reward):
    """Returns, or raises, what it was given."""

    def __init__(self, outcome: Any) -> None:
        self.outcome = outcome

    def score(self, images: Tensor, prompts: Sequence[str]) -> Scores:
        if isinstance(self.outcome, BaseException):
            raise self.outcome
        return self.outcome


def run(outcome: Any, n: int = 3) -> tuple[Tensor, Tensor]:
    return score("shine", Returns(outcome), torch.zeros(n, 1, 2, 2), [""] * n)


def test_plain_tensor_is_all_valid() -> None:
    values, valid = run(torch.tensor([1, 2, 3]))
    assert values.dtype == torch.float32
    assert values.tolist() == [1, 2, 3]
    assert valid.tolist() == [True] * 3


def test_mask_is_honoured_and_masked_values_are_never_read() -> None:
    values, valid = run(Scores(torch.tensor([1.0, torch.nan, 3.0]), torch.tensor([True, False, True])))
    assert values.tolist() == [1, 0, 3]
    assert valid.tolist() == [True, False, True]


def test_gradients_stop_at_the_border() -> None:
    values, _ = run(Scores(torch.ones(3, requires_grad=True) * 2))
    assert not values.requires_grad


@pytest.mark.parametrize(
    ("outcome", "said"),
    [
        (torch.zeros(3, 1), r"shape \(3, 1\), expected one score per image, shape \(3,\)"),
        (torch.tensor(1.0), r"shape \(\), expected"),
        ([1.0, 2.0, 3.0], "a list, expected"),
        (torch.tensor([1.0, torch.nan, torch.inf]), "NaN or infinity for 2 of 3"),
        (Scores(torch.zeros(3), torch.ones(2, dtype=torch.bool)), r"mask of shape \(2,\)"),
        (Scores(torch.zeros(3), torch.ones(3)), "float32, expected"),
        (ValueError("no\nmodel"), "ValueError: no model"),
        (SystemExit(3), "SystemExit: 3"),
    ],
    ids=["column", "scalar", "list", "nan", "short mask", "float mask", "raises", "exits"],
)
def test_mistakes_name_the_reward(outcome: Any, said: str) -> None:
    with pytest.raises(RunError, match=said) as caught:
        run(outcome)
    assert str(caught.value).startswith("reward 'shine': ")
