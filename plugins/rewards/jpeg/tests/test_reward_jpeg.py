"""JPEG sizes against files on disk."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from orwcfm_core.errors import RunError
from orwcfm_core.reward import score
from orwcfm_reward_jpeg.plugin import Config, orwcfm_rewards
from orwcfm_reward_jpeg.reward import JpegCompressibility, JpegIncompressibility
from PIL import Image
from pydantic import ValidationError

PLUS, MINUS = JpegIncompressibility(Config()), JpegCompressibility(Config())


def noise(*shape: int) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(("channels", "mode"), [(1, "L"), (3, "RGB")])
def test_it_is_the_size_of_the_file(channels: int, mode: str, tmp_path: Path) -> None:
    images = noise(3, channels, 28, 20)
    values = PLUS.score(images, [""] * 3).values
    for image, value in zip(images, values, strict=True):
        picture = Image.new(mode, (20, 28))
        for y in range(28):
            for x in range(20):
                levels = tuple(round(float(level) * 255) for level in image[:, y, x])
                picture.putpixel((x, y), levels if channels == 3 else levels[0])
        file = tmp_path / "image.jpg"
        picture.save(file, quality=95)
        assert float(value) == pytest.approx(file.stat().st_size / 1000)
        assert Image.open(file).mode == mode


@pytest.mark.parametrize("batch", [1, 5])
def test_one_score_per_image_whatever_the_others(batch: int) -> None:
    images = noise(batch, 1, 28, 28)
    values, valid = score("jpeg", MINUS, images, [""] * batch)
    assert values.shape == (batch,)
    assert valid.all()
    order = torch.randperm(batch, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(score("jpeg", MINUS, images[order], [""] * batch)[0], values[order])
    alone = torch.cat([score("jpeg", MINUS, image[None], [""])[0] for image in images])
    torch.testing.assert_close(alone, values)


def test_flat_images_compress_better_than_noise_and_the_two_rewards_are_opposite() -> None:
    images = torch.stack([torch.zeros(1, 28, 28), noise(1, 28, 28)])
    small = MINUS.score(images, ["", ""]).values
    assert small[0] > small[1]
    assert small.max() < 0
    torch.testing.assert_close(PLUS.score(images, ["", ""]).values, -small)


def test_lower_quality_gives_smaller_files() -> None:
    images = noise(1, 3, 32, 32)
    sizes = [float(JpegIncompressibility(Config(quality=q)).score(images, [""]).values) for q in (10, 50, 95)]
    assert sizes == sorted(sizes)
    assert sizes[0] < sizes[2]


def test_values_are_clipped_and_an_image_that_is_not_finite_is_invalid() -> None:
    images = noise(2, 1, 8, 8)
    images[0, 0, 0, 0] = float("nan")
    assert score("jpeg", PLUS, images, ["", ""])[1].tolist() == [False, True]
    bright = PLUS.score(torch.full((1, 1, 8, 8), 3.0), [""]).values
    torch.testing.assert_close(bright, PLUS.score(torch.ones(1, 1, 8, 8), [""]).values)


def test_other_shapes_are_refused() -> None:
    with pytest.raises(RunError, match="1 or 3 channels"):
        PLUS.score(torch.rand(2, 2, 8, 8), ["", ""])


def test_specs() -> None:
    assert [spec.name for spec in orwcfm_rewards()] == ["jpeg-compressibility", "jpeg-incompressibility"]
    assert "minus" in MINUS.describe()
    assert "95" in PLUS.describe()


@pytest.mark.parametrize("options", [{"quality": 0}, {"quality": 101}, {"size": 3}])
def test_wrong_options(options: dict[str, int]) -> None:
    with pytest.raises(ValidationError):
        Config.model_validate(options)
