"""CLIP scores with real, tiny open_clip models."""

from __future__ import annotations

import json
import math
import time
from pathlib import Path
from typing import Any

import huggingface_hub
import open_clip
import pytest
import torch
from open_clip.transform import PreprocessCfg, image_transform_v2
from orwcfm_core.errors import RunError, UserError
from orwcfm_core.reward import score
from orwcfm_reward_clip_score.normalisation import prepare
from orwcfm_reward_clip_score.plugin import Config, orwcfm_rewards
from orwcfm_reward_clip_score.reward import ClipScore
from safetensors.torch import save_file
from torchvision.transforms.functional import to_pil_image

PREPROCESSING = {"size": 16, "mean": [0.4, 0.5, 0.6], "std": [0.2, 0.3, 0.25], "interpolation": "bicubic"}
PROMPTS = ["a cat", "a dog", "a red boat", "seven", "a cat"]


def save(folder: Path, bias: float | None) -> Path:
    """A random model of a few thousand weights, in open_clip's format."""
    config: dict[str, Any] = {
        "embed_dim": 8,
        "vision_cfg": {"image_size": 16, "patch_size": 8, "layers": 1, "width": 16, "head_width": 8},
        "text_cfg": {"context_length": 8, "vocab_size": 49408, "width": 8, "heads": 1, "layers": 1},
    }
    if bias is not None:
        config |= {"init_logit_scale": math.log(10), "init_logit_bias": bias}
    torch.manual_seed(0)
    model = open_clip.CLIP(**config)
    folder.mkdir()
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": config, "preprocess_cfg": PREPROCESSING}))
    save_file(
        {key: value.contiguous() for key, value in model.state_dict().items()}, folder / "open_clip_model.safetensors"
    )
    return folder


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("models")
    return {"clip": save(root / "clip", None), "siglip": save(root / "siglip", -1.0)}


@pytest.fixture(params=["clip", "siglip"])
def judge(request: pytest.FixtureRequest, folders: dict[str, Path]) -> ClipScore:
    return ClipScore(Config(model=str(folders[request.param])))


def noise(batch: int, channels: int = 3, size: int = 16) -> torch.Tensor:
    return torch.rand((batch, channels, size, size), generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("kind", ["clip", "siglip"])
def test_it_agrees_with_open_clip(kind: str, folders: dict[str, Path]) -> None:
    model, preprocess = open_clip.create_model_from_pretrained(f"local-dir:{folders[kind]}")
    model.eval()
    pictures = [to_pil_image(image) for image in noise(5)]
    tokens = open_clip.get_tokenizer(f"local-dir:{folders[kind]}")(PROMPTS)
    with torch.no_grad():
        image_logits, _ = model.get_logits(torch.stack([preprocess(picture) for picture in pictures]), tokens)
    expected = image_logits.diagonal()
    expected = expected.sigmoid() if kind == "siglip" else expected / model.logit_scale.exp()
    # Through 8 bits on one side.
    images = (noise(5) * 255).floor() / 255
    values = ClipScore(Config(model=str(folders[kind]))).score(images, PROMPTS).values
    torch.testing.assert_close(values, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("batch", [1, 5])
def test_one_score_per_image_whatever_the_others(judge: ClipScore, batch: int) -> None:
    images, prompts = noise(batch), PROMPTS[:batch]
    values, valid = score("clip-score", judge, images, prompts)
    assert values.shape == (batch,)
    assert valid.all()
    order = torch.randperm(batch, generator=torch.Generator().manual_seed(1))
    shuffled, _ = score("clip-score", judge, images[order], [prompts[i] for i in order])
    torch.testing.assert_close(shuffled, values[order])
    alone = [score("clip-score", judge, x[None], [p])[0] for x, p in zip(images, prompts, strict=True)]
    torch.testing.assert_close(torch.cat(alone), values)
    judge.batch = 2
    torch.testing.assert_close(score("clip-score", judge, images, prompts)[0], values)


def test_the_prompt_matters(judge: ClipScore) -> None:
    images = noise(1).expand(5, -1, -1, -1)
    values = judge.score(images, PROMPTS).values
    assert values[0] == values[4]
    assert len(set(values.tolist())) == 4


def test_gradients_reach_the_images_and_agree_with_differences(judge: ClipScore) -> None:
    images = noise(1, size=20).requires_grad_()
    (gradient,) = torch.autograd.grad(judge.score(images, ["a cat"]).values.sum(), images)
    direction = gradient / gradient.norm()
    with torch.no_grad():
        up, down = (judge.score(images + s * direction, ["a cat"]).values for s in (0.01, -0.01))
    assert float(up - down) / 0.02 == pytest.approx(float(gradient.norm()), rel=0.05)
    assert not any(parameter.requires_grad for parameter in judge.model.parameters())


def test_gradients_also_after_prompts_were_cached_while_scoring(judge: ClipScore) -> None:
    score("clip-score", judge, noise(1), ["a cat"])
    images = noise(1).requires_grad_()
    (gradient,) = torch.autograd.grad(judge.score(images, ["a cat"]).values.sum(), images)
    assert gradient.abs().sum() > 0


@pytest.mark.parametrize("mode", ["shortest", "longest", "squash"])
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
@pytest.mark.parametrize("shape", [(16, 16), (32, 32), (40, 30), (12, 20)])
def test_preprocessing_agrees_with_open_clip(mode: str, interpolation: str, shape: tuple[int, int]) -> None:
    config = PREPROCESSING | {"interpolation": interpolation, "resize_mode": mode, "fill_color": 51}
    theirs = image_transform_v2(PreprocessCfg(**config), is_train=False)
    # Smooth pictures: where 8-bit rounding and the libraries' filters differ most is at the edges of noise.
    rows, columns = torch.linspace(0, 3, shape[0]), torch.linspace(0, 2, shape[1])
    smooth = [0.5 + 0.4 * torch.sin(rows[:, None] + k * columns) for k in (1, 2, 3)]
    image = (torch.stack(smooth) * 255).round() / 255
    expected = theirs(to_pil_image(image))
    torch.testing.assert_close(prepare(image[None], config)[0], expected, rtol=0, atol=0.06)


def test_grey_images_are_repeated_and_other_channels_refused(judge: ClipScore) -> None:
    grey = noise(2, channels=1)
    values = judge.score(grey, ["a cat", "a dog"]).values
    torch.testing.assert_close(values, judge.score(grey.repeat(1, 3, 1, 1), ["a cat", "a dog"]).values)
    with pytest.raises(RunError, match="1 or 3 channels"):
        judge.score(noise(1, channels=2), ["a cat"])


def test_a_prompt_has_the_same_embedding_in_any_company() -> None:
    prompts = ["footwear", "a boot", "a bag", "a coat", "a dress", "a shirt", "a sandal", "a sneaker"]
    together, apart = ClipScore(Config(model="small")), ClipScore(Config(model="small"))
    embedded = together.embed(prompts)
    # As in a run that is resumed, whose first round has other prompts than a new run's.
    some = apart.embed(prompts[3:5])
    assert torch.equal(embedded[3:5], some)
    assert torch.equal(embedded, apart.embed(prompts))


def test_features_have_unit_length(judge: ClipScore) -> None:
    features = judge.to(torch.device("cpu")).features(noise(3))
    assert features.shape == (3, 8)
    torch.testing.assert_close(features.norm(dim=1), torch.ones(3))


def test_ranges_and_descriptions(folders: dict[str, Path]) -> None:
    clip, siglip = (ClipScore(Config(model=str(folders[kind]))) for kind in ("clip", "siglip"))
    assert clip.describe().startswith("cosine similarity")
    assert siglip.describe().startswith("calibrated probability")
    probabilities = siglip.score(noise(5), PROMPTS).values
    assert 0 < probabilities.min() <= probabilities.max() < 1


def test_the_model_that_comes_along_knows_trousers_from_zeros() -> None:
    images = torch.zeros(2, 1, 28, 28)
    # Two bright legs under a waistband.
    images[0, :, 2:27, 8:13] = 0.6
    images[0, :, 2:27, 15:20] = 0.6
    images[0, :, 2:8, 8:20] = 0.6
    # A ring.
    y, x = torch.meshgrid(torch.arange(28) - 13.5, torch.arange(28) - 13.5, indexing="ij")
    images[1, 0] = ((y / 9) ** 2 + (x / 6) ** 2 - 1).abs().mul(-2.5).exp()
    small = ClipScore(Config(model="small"))
    captions = ["trousers", "a dress", "a boot", "the digit zero", "the digit eight"]
    scores = torch.stack([small.score(images, [f"a photo of {caption}"] * 2).values for caption in captions])
    # Drawings are unlike what it was trained on, so that only the order counts.
    assert scores.argmax(dim=0).tolist() == [0, 3]
    assert "calibrated" in small.describe()


def test_an_empty_prompt_is_refused(judge: ClipScore) -> None:
    with pytest.raises(UserError, match=r"set reward\.prompt"):
        score("clip-score", judge, noise(1), [""])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"model": "ViT-B-33"}, "'ViT-B-33', did you mean .*ViT-B-32"),
        ({"model": "vit_b_32"}, "did you mean .*ViT-B-32"),
        ({"model": "no/such/folder"}, "there is no folder no/such/folder"),
        ({"model": "weights.pt"}, "expected a folder"),
        ({"model": "ViT-L-14"}, "say which weights of 'ViT-L-14': .*laion2b_s32b_b82k"),
        ({"model": "ViT-B-32", "pretrained": "laion2b"}, "unknown weights 'laion2b' of 'ViT-B-32', did you mean"),
        ({"model": "ViT-B-32", "pretrained": "weights.pt"}, "only .safetensors files"),
        ({"model": "ViT-B-32", "pretrained": "weights.safetensors"}, "there is no file"),
        ({"model": "small", "pretrained": "openai"}, "brings its own weights"),
    ],
)
def test_wrong_models_are_one_line(options: dict[str, str], message: str) -> None:
    with pytest.raises(UserError, match=message) as error:
        ClipScore(Config(**options))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["open_clip_pytorch_model.bin", "model.pt"])
def test_pickles_are_never_read(name: str, folders: dict[str, Path], tmp_path: Path) -> None:
    config = (folders["clip"] / "open_clip_config.json").read_text()
    (tmp_path / "open_clip_config.json").write_text(config)
    torch.save(ClipScore(Config(model=str(folders["clip"]))).model.state_dict(), tmp_path / name)
    with pytest.raises(UserError, match=r"no \.safetensors file"):
        ClipScore(Config(model=str(tmp_path)))


def test_broken_folders_are_one_line(folders: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no open_clip_config\.json"):
        ClipScore(Config(model=str(tmp_path)))
    (tmp_path / "open_clip_config.json").write_text((folders["clip"] / "open_clip_config.json").read_text())
    for content in (b"", b"not weights"):
        (tmp_path / "open_clip_model.safetensors").write_bytes(content)
        with pytest.raises(UserError, match="cannot be read") as error:
            ClipScore(Config(model=str(tmp_path)))
        assert "\n" not in str(error.value)
    save_file({"other": torch.zeros(1)}, tmp_path / "open_clip_model.safetensors")
    with pytest.raises(UserError, match="cannot be read") as error:
        ClipScore(Config(model=str(tmp_path)))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("endpoint", ["offline", "http://127.0.0.1:9"])
def test_without_weights_and_network_it_says_at_once_what_to_do(
    endpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    constants = huggingface_hub.constants
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", endpoint == "offline")
    monkeypatch.setattr(constants, "ENDPOINT", endpoint)
    began = time.monotonic()
    with pytest.raises(UserError, match=r"cannot be downloaded .*python -c .*model=small") as error:
        ClipScore(Config())
    assert time.monotonic() - began < 5
    assert "\n" not in str(error.value)
    assert capfd.readouterr() == ("", "")


def test_weights_in_the_cache_need_no_network(
    folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The hub's cache: models--OWNER--NAME/snapshots/COMMIT/FILE, and refs/main, which holds the commit.
    entry = tmp_path / "models--laion--CLIP-ViT-B-32-laion2B-s34B-b79K"
    (entry / "snapshots" / "abc").mkdir(parents=True)
    (entry / "refs").mkdir()
    (entry / "refs" / "main").write_text("abc")
    weights = (folders["clip"] / "open_clip_model.safetensors").read_bytes()
    (entry / "snapshots" / "abc" / "open_clip_model.safetensors").write_bytes(weights)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    small = json.loads((folders["clip"] / "open_clip_config.json").read_text())["model_cfg"]
    monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, "ViT-B-32", small)
    judge = ClipScore(Config())
    assert judge.describe() == "cosine similarity with the caption by open_clip model ViT-B-32 (laion2b_s34b_b79k)"
    assert judge.score(noise(2), ["a cat", "a dog"]).values.shape == (2,)


def test_loading_is_silent(folders: dict[str, Path], capfd: pytest.CaptureFixture[str]) -> None:
    ClipScore(Config(model=str(folders["clip"])))
    assert capfd.readouterr() == ("", "")


def test_spec() -> None:
    (spec,) = orwcfm_rewards()
    assert spec.name == "clip-score"
    assert spec.differentiable


def test_a_prompt_whose_end_is_not_read_is_said(caplog):
    small = ClipScore(Config(model="small"))
    small.embed(["a boot"])
    assert not caplog.text
    small.embed([" ".join(["a boot"] * 10)])
    assert "reads the first 14 of 20 tokens" in caplog.text


def test_the_small_model_refuses_words_that_it_never_saw():
    small = ClipScore(Config(model="small"))
    with pytest.raises(UserError, match="does not know 'elephant'"):
        small.embed(["a sneaker", "an elephant"])
