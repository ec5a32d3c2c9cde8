"""Grids of samples."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from orwcfm_cli.pictures import grid, save_grid
from PIL import Image


@pytest.mark.parametrize(("channels", "mode"), [(1, "L"), (3, "RGB")])
def test_grid_places_every_picture(channels: int, mode: str) -> None:
    levels = torch.arange(5) / 4
    images = levels.view(5, 1, 1, 1).expand(5, channels, 28, 28)
    sheet = grid(images, columns=3)
    assert sheet.mode == mode
    assert sheet.size == (3 * 84 + 2 * 2, 2 * 84 + 2)
    for i, level in enumerate(levels):
        pixel = sheet.getpixel((i % 3 * 86 + 40, i // 3 * 86 + 40))
        expected = round(float(level) * 255)
        assert pixel == (expected if channels == 1 else (expected,) * 3)


def test_grid_keeps_pixels_square_and_channels_in_order() -> None:
    image = torch.zeros(1, 3, 2, 4)
    image[0, 0, 1, 3] = 1.0
    sheet = grid(image, columns=8)
    assert sheet.size == (128, 64)
    assert sheet.getpixel((96, 32)) == (255, 0, 0)
    assert sheet.getpixel((95, 32)) == (0, 0, 0)
    assert sheet.getpixel((96, 31)) == (0, 0, 0)


def test_grid_leaves_large_pictures_as_they_are() -> None:
    assert grid(torch.rand(2, 1, 128, 96), columns=2).size == (2 * 96 + 2, 128)


def test_grid_clips_and_shows_nan_as_black() -> None:
    sheet = grid(torch.tensor([-3.0, 7.0, torch.nan]).view(3, 1, 1, 1), columns=3)
    assert [sheet.getpixel((x, 0)) for x in (0, 66, 132)] == [0, 255, 0]


@pytest.mark.parametrize("shape", [(1, 28, 28), (0, 1, 28, 28), (2, 4, 8, 8)])
def test_grid_refuses_what_is_no_batch_of_pictures(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="expected images of shape"):
        grid(torch.zeros(shape), columns=2)


def test_grid_refuses_no_columns() -> None:
    with pytest.raises(ValueError, match="at least 1 column"):
        grid(torch.zeros(1, 1, 8, 8), columns=0)


@pytest.mark.parametrize(("count", "columns"), [(1, 1), (4, 2), (7, 3), (32, 8), (64, 8)])
def test_save_grid_is_about_square(tmp_path: Path, count: int, columns: int) -> None:
    path = tmp_path / "samples" / "round_0000.png"
    save_grid(path, torch.rand(count, 1, 64, 64, generator=torch.Generator().manual_seed(0)))
    with Image.open(path) as sheet:
        assert sheet.width == columns * 66 - 2
    assert [p.name for p in path.parent.iterdir()] == ["round_0000.png"]


def test_save_grid_leaves_the_old_file_when_it_fails(tmp_path: Path) -> None:
    path = tmp_path / "grid.png"
    save_grid(path, torch.zeros(4, 1, 64, 64))
    before = path.read_bytes()
    with pytest.raises(ValueError, match="expected images"):
        save_grid(path, torch.zeros(4, 64, 64))
    assert path.read_bytes() == before
