"""What regularizers hold to: the reference, the sampling policy or both."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from orwcfm_core.errors import RunError
from orwcfm_core.regularizer import Anchor, Regularizer, Sum, penalise
from orwcfm_core.testing.fakes import SquaredDistance, perturb
from orwcfm_core.trainer import State
from torch import Tensor


def inputs(n: int = 5) -> dict[str, Tensor]:
    g = torch.Generator().manual_seed(0)
    v, v_ref, v_old, x = torch.randn((4, n, 3), generator=g)
    return {"v": v, "v_ref": v_ref, "v_old": v_old, "t": torch.rand(n, generator=g), "x": x, "weights": torch.ones(n)}


def anchored(alpha: float, name: str, ema_alpha: float = 0.5) -> SquaredDistance:
    regularizer = SquaredDistance(alpha)
    regularizer.anchor = Anchor.named(name, ema_alpha)
    return regularizer


@pytest.mark.parametrize(("name", "reference", "ema"), [("reference", 3.0, 0.0), ("ema", 0.0, 3.0), ("both", 3.0, 0.2)])
def test_what_each_anchor_costs(name: str, reference: float, ema: float) -> None:
    given = inputs()
    found = penalise(anchored(3.0, name, 0.2), **given)
    to_ref, to_old = ((given["v"] - given[key]).square().mean(1) for key in ("v_ref", "v_old"))
    torch.testing.assert_close(found.cost, reference * to_ref + ema * to_old)
    torch.testing.assert_close(found.value, to_old if name == "ema" else to_ref)


def test_each_of_several_has_an_anchor_and_a_strength_of_its_own() -> None:
    given = inputs()
    parts: dict[str, Regularizer] = {"first": anchored(0.3, "reference"), "second": anchored(0.1, "ema")}
    both = Sum(parts)
    to_ref, to_old = ((given["v"] - given[key]).square().mean(1) for key in ("v_ref", "v_old"))
    torch.testing.assert_close(penalise(both, **given).cost, 0.3 * to_ref + 0.1 * to_old)
    assert both.needs_old
    parts["second"].alpha = 0.5
    torch.testing.assert_close(penalise(both, **given).cost, 0.3 * to_ref + 0.5 * to_old)


def test_a_trainer_without_a_sampling_policy_says_so() -> None:
    given = inputs() | {"v_old": None}
    with pytest.raises(RunError, match=r"reg\.anchor"):
        penalise(anchored(1.0, "both"), **given)


def round_of(
    lab: Any, name: str, alpha: float = 5.0, weighting: Callable[[Tensor], Tensor] = torch.sign
) -> tuple[State, dict[str, Any]]:
    options = {"updates": 1, "samples": 64, "clip_norm": 1e9}
    trainer, state = lab.start(weighting=weighting, alpha=alpha, **options)
    state.components.regularizer.anchor = Anchor.named(name, 5.0)
    perturb(state.components.backbone.policy().parameters(), seed=1)
    perturb({str(i): p for i, p in enumerate(state.ema.average)}, seed=2)
    return state, trainer.round(state)


def test_in_training_the_anchor_moves_the_pull_and_counts_its_evaluations(lab: Any) -> None:
    found = {name: round_of(lab, name) for name in ("reference", "ema", "both")} | {"free": round_of(lab, "ema", 0.0)}
    gradients = {
        name: torch.cat([p.grad.flatten() for p in state.ema.parameters]) for name, (state, _) in found.items()
    }
    torch.testing.assert_close(gradients["both"] - gradients["reference"], gradients["ema"] - gradients["free"])
    assert float((gradients["reference"] - gradients["ema"]).abs().max()) > 0.01
    assert found["reference"][1]["nfe"] == found["both"][1]["nfe"] == 64 * 4 + 3 * 64
    unsigned = {name: round_of(lab, name, weighting=torch.ones_like)[1]["nfe"] for name in ("reference", "both")}
    assert unsigned == {"reference": 64 * 4 + 2 * 64, "both": 64 * 4 + 3 * 64}
    assert found["reference"][1]["velocity_divergence"] == found["ema"][1]["velocity_divergence"]


def test_held_to_itself_at_the_start_there_is_no_penalty(lab: Any) -> None:
    trainer, state = lab.start(alpha=1.0, updates=1)
    state.components.regularizer.anchor = Anchor.named("ema", 0.5)
    perturb(state.components.backbone.policy().parameters())
    state.ema.average = [p.detach().clone() for p in state.ema.parameters]
    found = trainer.round(state)
    assert found["penalty"] == pytest.approx(0, abs=1e-12)
    assert found["velocity_divergence"] > 0
