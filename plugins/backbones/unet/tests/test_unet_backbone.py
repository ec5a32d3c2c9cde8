"""The U-Net as a backbone: its contract, its weights, and how prompts reach it."""

import hashlib
from importlib.resources import files
from pathlib import Path

import pytest
import torch
from orwcfm_backbone_unet.backbone import UNetBackbone, load_network
from orwcfm_backbone_unet.classes import data_of
from orwcfm_backbone_unet.plugin import Config, suggest
from orwcfm_core.errors import UserError

WEIGHTS = Path(str(files("orwcfm_backbone_unet") / "weights"))
CARD = Path(__file__).parents[1] / "MODEL_CARD.md"


@pytest.fixture(scope="module")
def backbone() -> UNetBackbone:
    return UNetBackbone(Config())


@pytest.mark.parametrize("name", ["fashion", "mnist"])
def test_shipped_weights_are_those_of_the_card(name):
    file = WEIGHTS / f"{name}.safetensors"
    assert hashlib.sha256(file.read_bytes()).hexdigest() in CARD.read_text()
    assert file.stat().st_size <= 4_000_000
    network, data = load_network(name)
    assert data == name == data_of(name) == data_of(str(file))
    assert sum(p.numel() for p in network.parameters()) <= 2_000_000


@pytest.mark.parametrize("t", [torch.tensor(0.3), torch.tensor([0.3, 0.3, 0.3])], ids=["scalar", "batch"])
def test_policy_starts_as_the_reference(backbone, t):
    x = torch.randn(3, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    v, v_ref = backbone.policy().velocity(t, x, {}), backbone.reference().velocity(t, x, {})
    assert v.shape == x.shape
    assert torch.equal(v, v_ref)


def test_gradient_reaches_every_parameter_of_the_policy_and_none_of_the_reference():
    backbone = UNetBackbone(Config(conditional=True))
    x = torch.randn(4, 1, 28, 28)
    backbone.policy().velocity(torch.rand(4), x, backbone.encode(["a bag"] * 4)).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in backbone.policy().parameters().values())
    assert not any(p.requires_grad for p in backbone.reference().network.parameters())
    with torch.no_grad():
        next(iter(backbone.policy().parameters().values())).add_(1.0)
    fresh = UNetBackbone(Config())
    t = torch.rand(4)
    assert torch.equal(backbone.reference().velocity(t, x, {}), fresh.reference().velocity(t, x, {}))


def test_a_sample_does_not_depend_on_its_batch(backbone):
    x = torch.randn(4, 1, 28, 28, generator=torch.Generator().manual_seed(1))
    together = backbone.policy().velocity(torch.tensor(0.5), x, {})
    alone = torch.cat([backbone.policy().velocity(torch.tensor(0.5), row[None], {}) for row in x])
    assert torch.allclose(together, alone, atol=1e-5)


def test_prompts_become_classes_of_a_conditional_backbone(backbone):
    assert backbone.encode(["a sneaker"]) == {}
    conditional = UNetBackbone(Config(conditional=True))
    labels = conditional.encode(["a photo of a sneaker", "trousers", "footwear", "an elephant"])["label"]
    assert labels.tolist() == [7, 1, 10, 10]


def test_guidance_without_a_condition_is_said_to_do_nothing(caplog):
    UNetBackbone(Config(guidance=3))
    assert "set backbone.conditional=true" in caplog.text


def test_guidance_extrapolates_from_the_null_class():
    x, t = torch.randn(2, 1, 28, 28), torch.tensor(0.4)
    plain, guided = UNetBackbone(Config(conditional=True)), UNetBackbone(Config(conditional=True, guidance=3.0))
    condition = plain.encode(["a bag", "a coat"])
    v, v_null = plain.policy().velocity(t, x, condition), plain.policy().velocity(t, x, {})
    assert torch.allclose(guided.policy().velocity(t, x, condition), v_null + 3 * (v - v_null), atol=1e-5)


def test_images_are_in_range(backbone):
    images = backbone.to_images(3 * torch.randn(2, 1, 28, 28))
    assert images.min() == 0
    assert images.max() == 1


def test_suggestions_fit_the_weights():
    assert (
        suggest(Config(), ()).run
        == suggest(Config(weights="none.safetensors"), ()).run
        == {"sampler": {"name": "adams", "steps": 10, "shift": 2.0}}
    )
    assert suggest(Config(), ()).prompts == ("footwear",)
    assert suggest(Config(weights="mnist"), ()).prompts == ("an even digit",)
    assert suggest(Config(), ("a bag",)).heldout == ("class-probability", "clip-score")
    # Whether a CLIP knows these words is not known, and nobody asked for a judge.
    assert suggest(Config(), ("something bright",)).heldout == ()
    assert suggest(Config(weights="elsewhere.safetensors"), ()).rewards == {}


@pytest.mark.parametrize("content", [b"", b"\x80\x04cos\nsystem\n", b"\x10\0\0\0\0\0\0\0{}              "])
def test_what_is_no_weight_file_is_refused(tmp_path, content):
    (tmp_path / "x.safetensors").write_bytes(content)
    with pytest.raises(UserError, match=r"backbone\.weights"):
        UNetBackbone(Config(weights=str(tmp_path / "x.safetensors")))


def test_pictures_become_samples_again(backbone):
    x_1 = 2 * torch.rand(3, 1, 28, 28, generator=torch.Generator().manual_seed(0)) - 1
    torch.testing.assert_close(backbone.from_images(backbone.to_images(x_1)), x_1)
    coloured = torch.tensor([0.0, 0.25, 0.5]).view(1, 3, 1, 1).expand(2, 3, 56, 40)
    torch.testing.assert_close(backbone.from_images(coloured), torch.full((2, 1, 28, 28), -0.5))
