"""A folder of real images, to compare samples with."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from orwcfm_core.errors import UserError
from orwcfm_core.picture_file import read_picture

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["find_images", "read_images"]

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm")


def find_images(folder: Path) -> list[Path]:
    """Its images and those of the folders in it, by name.

    Raises:
        UserError: There are fewer than two.
    """
    found = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)
    if len(found) < 2:
        raise UserError(f"--real {folder}: expected a folder of at least two images, found {len(found)}")
    return found


def read_images(paths: list[Path], shape: tuple[int, ...], batch: int) -> Iterator[Tensor]:
    """Read images, in batches.

    Args:
        paths: From `find_images`.
        shape: (C, H, W) that they are brought to: grey or RGB, resized (bicubic) where they are of another size.
        batch: At most so many at once.

    Returns:
        Tensors `(B, C, H, W)` in [0, 1].

    Raises:
        UserError: One is no image, or has more than 8 bits for each channel.
    """
    import torch

    for start in range(0, len(paths), batch):
        yield torch.stack([_read(path, shape) for path in paths[start : start + batch]])


def _read(path: Path, shape: tuple[int, ...]) -> Tensor:
    import torch
    from PIL import Image

    channels, height, width = shape
    image = read_picture(path, "--real", "L" if channels == 1 else "RGB")
    if image.size != (width, height):
        image = image.resize((width, height), Image.Resampling.BICUBIC)
    pixels = torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8)
    return pixels.reshape(height, width, channels).permute(2, 0, 1) / 255
