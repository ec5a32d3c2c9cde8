"""Precisions, the scaling of fp16, and how often the host asks the device for a number."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from orwcfm_core.checkpoint import load_checkpoint, save_checkpoint
from orwcfm_core.errors import UserError
from orwcfm_core.trainer import autocast, choose_precision
from orwcfm_core.weighting import Advantage
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


def test_fp16_is_refused_on_the_cpu(lab: Any) -> None:
    with pytest.raises(UserError, match=r"^train\.precision: fp16 is for GPUs, and this runs on the CPU; use bf16"):
        lab.start(precision="fp16")
    assert choose_precision("fp16", CUDA) == "fp16"


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_precision_is_that_of_the_networks(precision: str) -> None:
    with autocast(CPU, precision):
        product = torch.ones(2, 2) @ torch.ones(2, 2)
    assert product.dtype == {"fp32": torch.float32, "bf16": torch.bfloat16}[precision]
    assert choose_precision(precision, CPU) == precision


@pytest.mark.parametrize(("native", "chosen"), [(False, "fp32"), (True, "bf16")])
def test_bf16_is_chosen_where_it_is_not_emulated(native: bool, chosen: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    monkeypatch.setattr("torch.cpu._is_avx512_bf16_supported", lambda: native)
    monkeypatch.setattr("torch.cpu._is_amx_tile_supported", lambda: False)
    # Which oneDNN says of any processor with AVX-512.
    monkeypatch.setattr("torch.ops.mkldnn._is_mkldnn_bf16_supported", lambda: True)
    assert choose_precision("auto", CPU) == chosen


def start(lab: Any, scale: float | None, weighting: Any = None) -> Any:
    """A trainer and its state, with the gradient scaling of fp16 at this scale."""
    trainer, state = lab.start(weighting=weighting or Advantage(1.0, 1.0), alpha=0.2, updates=3, micro_batch=20)
    if scale:
        state.scaler = torch.amp.GradScaler("cpu", init_scale=scale, growth_interval=2)
    return trainer, state


def parameters(state: Any) -> list[Tensor]:
    return [p.detach().clone() for p in state.ema.parameters]


def test_scaling_changes_no_number(lab: Any) -> None:
    (trainer, plain), (_, scaled) = start(lab, None), start(lab, 2.0**10)
    for _ in range(2):
        expected, found = trainer.round(plain), trainer.round(scaled)
        assert {**expected, "seconds": 0, "samples_per_second": 0} == {**found, "seconds": 0, "samples_per_second": 0}
    assert all(torch.equal(p, q) for p, q in zip(parameters(plain), parameters(scaled), strict=True))
    assert scaled.scaler.get_scale() == 2.0**13


def test_an_overflow_skips_the_update_and_lowers_the_scale(lab: Any) -> None:
    trainer, state = start(lab, 2.0**127, weighting=lambda scores: torch.full_like(scores, 64.0))
    before = parameters(state)
    skipped = trainer.round(state)["skipped"]
    assert skipped == 3
    assert all(torch.equal(p, q) for p, q in zip(before, parameters(state), strict=True))
    for _ in range(5):
        skipped = trainer.round(state)["skipped"]
    assert skipped < 3
    assert all(p.isfinite().all() for p in state.ema.parameters)


def test_the_scale_survives_a_resume(lab: Any, tmp_path: Path) -> None:
    trainer, state = start(lab, 2.0**10)
    trainer.round(state)
    _, other = start(lab, 2.0**3)
    load_checkpoint(other, save_checkpoint(state, tmp_path, keep=1))
    assert other.scaler.state_dict() == state.scaler.state_dict()
    trainer.round(state)
    trainer.round(other)
    assert all(torch.equal(p, q) for p, q in zip(parameters(state), parameters(other), strict=True))


class Waits(TorchDispatchMode):
    """Counts what would make the host wait for a GPU: values and shapes that depend on values."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        masks = name.startswith("index") and any(
            i is not None and i.dtype == torch.bool for i in (args[1] if isinstance(args[1], list | tuple) else ())
        )
        self.count += masks or name in ("_local_scalar_dense", "nonzero", "equal", "masked_select", "is_nonzero")
        return func(*args, **(kwargs or {}))


def test_the_host_waits_neither_for_micro_batches_nor_for_steps(lab: Any) -> None:
    def waits(**options: int) -> int:
        trainer, state = lab.start(weighting=Advantage(1.0, 1.0), alpha=0.2, ema=0.5, **options)
        with Waits() as mode:
            trainer.round(state)
        return mode.count

    usual = waits(updates=2, micro_batch=64)
    # An update reads its norm and losses in one `tolist`, which is not seen here.
    assert waits(updates=7, micro_batch=64) == usual
    assert waits(updates=2, micro_batch=4) == usual
    assert waits(updates=2, micro_batch=64, steps=9, draws=3) == usual
    assert usual < 25
