"""A narrower U-Net with weights that are random, but always the same."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor

RECORD = Path(__file__).with_name("torchcfm.json")


def make_weights(shapes: Mapping[str, Sequence[int]]) -> dict[str, Tensor]:
    """Large enough that every one of them shows in the velocity."""
    rng = torch.Generator().manual_seed(0)
    return {
        name: torch.randn(shape, generator=rng) * (0.05 if len(shape) > 1 else 0.3) for name, shape in shapes.items()
    }


def make_points() -> tuple[Tensor, Tensor]:
    """Times `(4,)` and states `(4, 3, 32, 32)`."""
    return torch.tensor([0.0, 0.1, 0.6, 1.0]), torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="session")
def record() -> dict:
    """What record.py wrote of TorchCFM's own network: the shapes of its tensors, and its velocities at some pixels."""
    return json.loads(RECORD.read_text())


@pytest.fixture(scope="session")
def state(record) -> dict[str, Tensor]:
    return make_weights(record["shapes"])


@pytest.fixture
def points() -> tuple[Tensor, Tensor]:
    return make_points()


@pytest.fixture(scope="session")
def checkpoint(state, tmp_path_factory) -> Path:
    """A file as `train_cifar10.py` writes it."""
    path = tmp_path_factory.mktemp("torchcfm") / "fm_cifar10_weights_step_7.pt"
    net = {name: torch.zeros_like(tensor) for name, tensor in state.items()}
    p = [torch.nn.Parameter(tensor) for tensor in state.values()]
    optim, sched = torch.optim.Adam(p).state_dict(), {"base_lrs": [2e-4], "last_epoch": 7, "lr_lambdas": [None]}
    torch.save({"net_model": net, "ema_model": state, "sched": sched, "optim": optim, "step": 7}, path)
    return path


@pytest.fixture(scope="session")
def folder(checkpoint) -> Path:
    """What the command makes of it."""
    from orwcfm_backbone_torchcfm.convert import main

    path = checkpoint.with_name("cifar10")
    main([str(checkpoint), str(path)])
    return path
