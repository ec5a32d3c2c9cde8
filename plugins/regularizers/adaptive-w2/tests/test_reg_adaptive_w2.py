"""The strength of each sample, and ADRPO's loss."""

from __future__ import annotations

import pytest
import torch
from orwcfm_core.testing.gradients import one_update, trainer_on_gmm
from orwcfm_reg_adaptive_w2.plugin import Config
from orwcfm_reg_adaptive_w2.regularizer import AdaptiveW2
from pydantic import ValidationError
from torch import Tensor


def strengths(weights: list[float], **options: float) -> list[float]:
    ones = torch.ones(len(weights), 3)
    given = torch.tensor(weights)
    return AdaptiveW2(Config(**options)).penalty(ones, 0 * ones, given, ones, given).tolist()


def test_the_strength_falls_with_the_advantage_between_its_bounds() -> None:
    assert strengths([-10, -1, 0, 0.5, 1, 2]) == [5.0, 2.0, 1.0, 0.5, 0.0, 0.0]
    assert strengths([-1, 1, 2], sensitivity=2, low=-1, high=2) == [2.0, -1.0, -1.0]
    assert strengths([-3, 0, 3], sensitivity=0) == [1.0, 1.0, 1.0]


def signed(scores: Tensor) -> Tensor:
    return 2 * (scores - scores.mean())


def test_with_rvm_it_is_adrpo() -> None:
    beta_0 = 0.4
    trainer, state = trainer_on_gmm("rvm", {}, signed)
    state.components.regularizer = AdaptiveW2(Config(alpha=beta_0, sensitivity=1 / beta_0, low=-100, high=100))
    at = one_update(trainer, state)
    assert at.w.min() < 0 < at.w.max()
    advantage = at.w[:, None]
    loss = (advantage * (at.v - at.u_t) ** 2 + (beta_0 - advantage) * (at.v - at.v_ref) ** 2).mean(1)
    derived = at.derived(loss)
    torch.testing.assert_close(at.gradient, derived, rtol=2e-4, atol=2e-5 * float(derived.abs().max()))


@pytest.mark.parametrize("options", [{"alpha": -1}, {"low": 2, "high": 1}, {"sensitivity": "nan"}, {"beta": 1}])
def test_wrong_options(options: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        Config.model_validate(options)
