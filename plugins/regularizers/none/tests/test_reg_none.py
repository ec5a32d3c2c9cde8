"""The absence of a penalty."""

from __future__ import annotations

import pytest
import torch
from orwcfm_reg_none.plugin import Config, orwcfm_regularizers
from orwcfm_reg_none.regularizer import NoPenalty
from pydantic import ValidationError


@pytest.mark.parametrize("batch", [1, 5])
def test_zero_for_every_sample(batch: int) -> None:
    nothing = NoPenalty(Config())
    v = torch.randn(batch, 1, 4, 4)
    value = nothing.penalty(v, torch.randn_like(v), torch.rand(batch), v, torch.ones(batch))
    assert value.tolist() == [0.0] * batch
    assert nothing.alpha == 0


def test_a_strength_is_an_error() -> None:
    (spec,) = orwcfm_regularizers()
    assert not spec.config.model_fields
    with pytest.raises(ValidationError):
        spec.config.model_validate({"alpha": 0.1})
