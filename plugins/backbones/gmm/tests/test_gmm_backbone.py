"""The gmm backbone and the component reward as plugins."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from orwcfm_backbone_gmm import plugin
from orwcfm_backbone_gmm.backbone import GmmBackbone
from orwcfm_backbone_gmm.component import ComponentReward
from orwcfm_backbone_gmm.plugin import ComponentRewardConfig, GmmConfig
from orwcfm_core.errors import UserError
from orwcfm_core.reward import score
from pydantic import ValidationError


def points(n: int, dim: int) -> torch.Tensor:
    return 3 * torch.randn(n, dim, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("dim", [1, 2, 6])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_policy_equals_reference_at_the_start(dim: int, dtype: torch.dtype) -> None:
    backbone = GmmBackbone(GmmConfig(dim=dim))
    x, t = points(50, dim).to(dtype), torch.linspace(0, 1, 50)
    v = backbone.policy().velocity(t, x, {})
    assert v.dtype == dtype
    assert torch.equal(v, backbone.reference().velocity(t, x, {}))
    assert backbone.sample_shape == (dim,)


def test_policy_equals_reference_in_bf16_too() -> None:
    backbone = GmmBackbone(GmmConfig())
    x, t = points(50, 2), torch.linspace(0, 1, 50)
    full = backbone.reference().velocity(t, x, {})
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(backbone.policy().velocity(t, x, {}), full)
        assert torch.equal(backbone.reference().velocity(t, x, {}), full)


def test_only_the_residual_is_trainable_and_every_layer_learns() -> None:
    backbone = GmmBackbone(GmmConfig())
    parameters = backbone.policy().parameters()
    with torch.no_grad():
        parameters["out.weight"].add_(0.01)
    backbone.policy().velocity(torch.tensor(0.5), points(20, 2), {}).square().sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in parameters.values())
    assert not backbone.reference().velocity(torch.tensor(0.5), points(20, 2), {}).requires_grad


def test_two_backbones_are_the_same_and_leave_the_global_generator_alone() -> None:
    state = torch.random.get_rng_state()
    first, second = (GmmBackbone(GmmConfig()).policy().parameters() for _ in range(2))
    assert torch.equal(torch.random.get_rng_state(), state)
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("dim", [1, 2, 3])
def test_pictures_show_a_dot_where_the_point_is(dim: int) -> None:
    backbone = GmmBackbone(GmmConfig(dim=dim, radius=4.0, std=0.5))
    x = torch.zeros(3, dim)
    x[1, 0], x[2, -1 if dim < 3 else 1] = -1e3, 4.0
    images = backbone.to_images(x)
    assert images.shape == (3, 1, 32, 32)
    assert float(images.min()) >= 0
    assert 0.7 < float(images.amax((1, 2, 3)).min()) <= float(images.max()) <= 1
    rows, columns = images[:, 0].sum(2).argmax(1), images[:, 0].sum(1).argmax(1)
    assert rows[0] in (15, 16)
    assert (int(columns[1]), int(rows[1])) in ((0, 15), (0, 16))
    assert int(columns[2] if dim == 1 else 31 - rows[2]) == 26


def test_reward_is_the_value_of_the_nearest_mean() -> None:
    reward = ComponentReward(ComponentRewardConfig(dim=2, components=4, radius=4.0, values=(1.0, -2.5)))
    x = torch.tensor([[4.2, 0.3], [0.1, 3.0], [-9.0, 0.0], [0.0, -1.0], [torch.nan, 0.0]])
    values, valid = score("component", reward, x, [""] * 5)
    assert values.tolist() == [1, -2.5, 0, 0, 0]
    assert valid.tolist() == [True, True, True, True, False]


def test_reward_of_other_dimensions_is_an_error() -> None:
    reward = ComponentReward(ComponentRewardConfig(dim=3))
    with pytest.raises(UserError, match=r"dim: expected that of the samples, of shape \(2, 2\), got 3"):
        score("component", reward, torch.zeros(2, 2), ["", ""])


@pytest.mark.parametrize("options", [{"values": [1, 2, 3], "components": 2}, {"values": []}, {"values": ["nan"]}])
def test_impossible_values_are_errors(options: dict[str, object]) -> None:
    with pytest.raises(ValidationError, match="values"):
        ComponentRewardConfig.model_validate(options)


def test_backbone_suggests_its_geometry_to_the_reward() -> None:
    (backbone,), (reward,) = plugin.orwcfm_backbones(), plugin.orwcfm_rewards()
    suggestions = backbone.suggest(GmmConfig(dim=3, components=5, radius=2.5), ())
    assert suggestions.heldout == ()
    config = reward.config.model_validate(suggestions.rewards["component"])
    assert (config.dim, config.components, config.radius) == (3, 5, 2.5)
    assert backbone.produces == reward.accepts == "points"


@pytest.mark.parametrize("config", [GmmConfig, ComponentRewardConfig])
def test_every_option_is_described(config: type[GmmConfig]) -> None:
    assert all(field.description for field in config.model_fields.values())


def test_light_module_imports_no_torch() -> None:
    code = "import sys, orwcfm_backbone_gmm.plugin; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
