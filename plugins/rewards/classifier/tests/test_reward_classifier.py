"""Class probabilities: which classes count, and what the shipped classifiers see."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from orwcfm_core.errors import RunError, UserError
from orwcfm_core.reward import score
from orwcfm_reward_classifier.network import Classifier
from orwcfm_reward_classifier.plugin import Config, orwcfm_rewards
from orwcfm_reward_classifier.reward import ClassProbability, prepare
from orwcfm_reward_classifier.vocabulary import CLASSES, GROUPS, VOCABULARIES
from PIL import Image, ImageDraw
from pydantic import ValidationError
from safetensors.torch import save_file


def reward(**options: Any) -> ClassProbability:
    return ClassProbability(Config.model_validate(options))


def noise(batch: int, channels: int = 1, size: int = 28) -> torch.Tensor:
    return torch.rand((batch, channels, size, size), generator=torch.Generator().manual_seed(0))


def drawn(kind: str) -> torch.Tensor:
    """A digit drawn by hand, in the size that MNIST's have."""
    picture = Image.new("L", (280, 280))
    pen = ImageDraw.Draw(picture)
    if kind == "zero":
        pen.ellipse((80, 50, 200, 230), outline=255, width=24)
    else:
        pen.line((150, 50, 130, 230), fill=255, width=24)
    pixels = torch.tensor(list(picture.resize((28, 28), Image.Resampling.BOX).tobytes()))
    return pixels.view(1, 1, 28, 28) / 255


def test_the_digits_classifier_sees_digits() -> None:
    digits = torch.cat([drawn("zero"), drawn("one")])
    zero, one = (reward(model="mnist", labels=label).score(digits, ["", ""]).values for label in ("0", "one"))
    assert zero[0] > 0.9
    assert zero[1] < 0.1
    assert one[1] > 0.9
    assert one[0] < 0.1


def test_the_clothing_classifier_sees_trousers() -> None:
    # Two bright legs under a waistband.
    image = torch.zeros(1, 1, 28, 28)
    image[..., 2:27, 8:13] = 0.6
    image[..., 2:27, 15:20] = 0.6
    image[..., 2:8, 8:20] = 0.6
    assert reward(labels="trousers").score(image, [""]).values > 0.9
    assert reward(labels="footwear").score(image, [""]).values < 0.05


@pytest.mark.parametrize("model", ["fashion", "mnist"])
def test_probabilities_of_a_partition_sum_to_one(model: str) -> None:
    images = noise(4)
    parts = [reward(model=model, labels=[name]).score(images, [""] * 4).values for name in CLASSES[model]]
    torch.testing.assert_close(sum(parts), torch.ones(4))
    for name, members in GROUPS[model].items():
        group = reward(model=model, labels=name).score(images, [""] * 4).values
        torch.testing.assert_close(group, torch.stack(parts)[list(members)].sum(0))


@pytest.mark.parametrize(
    ("model", "prompt", "classes"),
    [
        ("fashion", "a photo of a sneaker", (7,)),
        ("fashion", "Ankle boots, please", (9,)),
        ("fashion", "a t-shirt", (0,)),
        ("fashion", "a shirt", (6,)),
        ("fashion", "a pair of trousers", (1,)),
        ("fashion", "two dresses", (3,)),
        ("fashion", "a running shoe", (7,)),
        ("fashion", "shoes", (5, 7, 9)),
        ("fashion", "a piece of footwear", (5, 7, 9)),
        ("fashion", "some clothes", (0, 1, 2, 3, 4, 6)),
        ("fashion", "a bag or a boot", (8, 9)),
        ("mnist", "an even digit", (0, 2, 4, 6, 8)),
        ("mnist", "odd numbers", (1, 3, 5, 7, 9)),
        ("mnist", "a photo of the digit 3", (3,)),
        ("mnist", "a handwritten seven", (7,)),
        ("mnist", "sixes", (6,)),
    ],
)
def test_the_prompt_chooses_the_classes(model: str, prompt: str, classes: tuple[int, ...]) -> None:
    assert VOCABULARIES[model].named(prompt) == classes
    images = noise(2)
    by_prompt = reward(model=model).score(images, [prompt] * 2).values
    by_label = reward(model=model, labels=[CLASSES[model][k] for k in classes]).score(images, [""] * 2).values
    torch.testing.assert_close(by_prompt, by_label)


def test_every_sample_has_its_own_prompt() -> None:
    images = noise(1).expand(3, -1, -1, -1)
    values = reward().score(images, ["a bag", "a coat", "a bag or coat"]).values
    torch.testing.assert_close(values[0] + values[1], values[2])
    assert values[0] != values[1]


@pytest.mark.parametrize("batch", [1, 5])
def test_one_score_per_image_whatever_the_others(batch: int) -> None:
    images, prompts = noise(batch), ["a bag", "a coat", "a shirt", "a boot", "tops"][:batch]
    values, valid = score("class-probability", reward(), images, prompts)
    assert values.shape == (batch,)
    assert valid.all()
    order = torch.randperm(batch, generator=torch.Generator().manual_seed(1))
    shuffled, _ = score("class-probability", reward(), images[order], [prompts[i] for i in order])
    torch.testing.assert_close(shuffled, values[order])
    alone = [score("class-probability", reward(), x[None], [p])[0] for x, p in zip(images, prompts, strict=True)]
    torch.testing.assert_close(torch.cat(alone), values)


def test_gradients_reach_the_images_and_agree_with_differences() -> None:
    images = noise(1).requires_grad_()
    judge = reward(labels="bag")
    (gradient,) = torch.autograd.grad(judge.score(images, [""]).values.sum(), images)
    direction = gradient / gradient.norm()
    step = 1e-2
    with torch.no_grad():
        up, down = (judge.score(images + s * direction, [""]).values for s in (step, -step))
    assert float(up - down) / (2 * step) == pytest.approx(float(gradient.norm()), rel=0.1)


def test_grey_of_three_channels_and_other_sizes() -> None:
    judge = reward(labels="bag")
    grey = noise(2)
    coloured = judge.score(grey.expand(-1, 3, -1, -1), ["", ""]).values
    torch.testing.assert_close(coloured, judge.score(grey, ["", ""]).values)
    blocks = grey.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
    assert prepare(blocks).shape == (2, 1, 28, 28)
    assert prepare(torch.full((1, 3, 65, 40), 0.5)).sub(0.5).abs().max() < 1e-5
    with pytest.raises(RunError, match="1 or 3 channels"):
        judge.score(noise(1, channels=2), [""])


def test_features_and_description() -> None:
    judge = reward(model="mnist", labels="even digits").to(torch.device("cpu"))
    assert judge.features(noise(3)).shape == (3, 96)
    assert judge.describe() == "probability of even digits under the classifier mnist"
    assert "prompt" in reward().describe()


@pytest.mark.parametrize("given", ["sandal, Sneakers,boot", ["sandal", "Sneakers", "boot"], ("footwear",)])
def test_labels_as_a_list_or_a_string(given: Any) -> None:
    assert reward(labels=given).chosen == (5, 7, 9)
    again = Config.model_validate(Config(labels=given).model_dump(mode="json"))
    assert again == Config(labels=given)


def test_numbers_are_labels_of_digits() -> None:
    assert reward(model="mnist", labels=[0, 2]).chosen == (0, 2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"labels": "bag, sneeker"}, "'sneeker' is no class of fashion .known: t-shirt, .*, footwear"),
        ({"labels": "even digits"}, "no class of fashion"),
        ({"model": "mnist", "labels": "boot"}, "no class of mnist .known: zero"),
        ({"labels": ""}, "at least one class"),
        ({"labels": []}, "at least one class"),
        ({"model": "fasion"}, "expected fashion, mnist or the path of a .safetensors file"),
        ({"model": "weights.pt"}, "safetensors"),
        ({"label": "bag"}, "Extra inputs"),
    ],
)
def test_wrong_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Config.model_validate(options)


@pytest.mark.parametrize("prompt", ["", "a photo of a cat", "undershirts"])
def test_a_prompt_without_a_class_says_what_to_do(prompt: str) -> None:
    with pytest.raises(UserError, match="set labels, or name a class") as error:
        score("class-probability", reward(), noise(1), [prompt])
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("content", [None, b"", b"not weights at all", b"\x80\x04\x95."])
def test_a_file_that_is_no_safetensors_file(content: bytes | None, tmp_path: Path) -> None:
    path = tmp_path / "mine.safetensors"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=r"mine\.safetensors: (no such|is not a readable safetensors) file") as error:
        reward(model=str(path))
    assert "\n" not in str(error.value)


def test_a_classifier_of_ones_own(tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = Classifier(width=4, features=6, classes=3).eval()
    path = tmp_path / "mine.safetensors"
    state = {key: value.contiguous() for key, value in net.state_dict().items()}
    save_file(state, path, metadata={"classes": "cat, dog,hen"})
    images = noise(2)
    judge = reward(model=str(path), labels="dogs, hen")
    expected = 1 - net(images).softmax(1)[:, 0]
    torch.testing.assert_close(judge.score(images, ["", ""]).values, expected.detach())
    with pytest.raises(UserError, match=r"'boot' is no class of .*known: cat, dog, hen"):
        reward(model=str(path), labels="boot")

    save_file(state, path)
    with pytest.raises(UserError, match="header says neither"):
        reward(model=str(path))
    save_file({"head.weight": torch.zeros(3, 6)}, path)
    with pytest.raises(UserError, match="does not hold a classifier"):
        reward(model=str(path))
    save_file(state | {"other": torch.zeros(1)}, path, metadata={"classes": "cat, dog,hen"})
    with pytest.raises(UserError, match="other tensors"):
        reward(model=str(path))


def test_spec() -> None:
    (spec,) = orwcfm_rewards()
    assert spec.name == "class-probability"
    assert spec.config is Config
