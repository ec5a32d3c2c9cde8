"""Grids of samples as pictures."""

from __future__ import annotations

import io
import math
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

from orwcfm_cli.atomic import replace_file

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["grid", "save_grid"]

READABLE = 64
GAP = 2
GAP_GREY = 128


def grid(images: Tensor, columns: int) -> Image.Image:
    """Pictures side by side, row by row, with a thin grey gap.

    Small pictures are enlarged by whole factors (nearest neighbour), so that every pixel stays a square.

    Args:
        images: `(B, C, H, W)` in [0, 1], C = 1 (grey) or 3 (RGB); what lies outside is clipped, NaN is black.
        columns: Pictures per row.

    Raises:
        ValueError: No picture, a shape that is none of these, or no column.
    """
    if images.ndim != 4 or images.shape[1] not in (1, 3) or 0 in images.shape:
        raise ValueError(f"grid: expected images of shape (B, 1 or 3, H, W), got {tuple(images.shape)}")
    if columns < 1:
        raise ValueError(f"grid: expected at least 1 column, got {columns}")
    count, channels, height, width = images.shape
    mode = "L" if channels == 1 else "RGB"
    factor = max(1, math.ceil(READABLE / min(height, width)))
    cell = (width * factor, height * factor)
    columns = min(columns, count)
    rows = math.ceil(count / columns)

    levels = images.detach().cpu().double().nan_to_num(0.0).clamp(0, 1).mul(255).round().byte()
    size = (columns * (cell[0] + GAP) - GAP, rows * (cell[1] + GAP) - GAP)
    sheet = Image.new(mode, size, GAP_GREY if channels == 1 else (GAP_GREY,) * 3)
    for i, picture in enumerate(levels.permute(0, 2, 3, 1)):
        tile = Image.frombytes(mode, (width, height), picture.contiguous().numpy().tobytes())
        place = (i % columns * (cell[0] + GAP), i // columns * (cell[1] + GAP))
        sheet.paste(tile.resize(cell, Image.Resampling.NEAREST), place)
    return sheet


def save_grid(path: Path, images: Tensor, columns: int | None = None) -> None:
    """Write a grid as PNG; the file appears at once or not at all.

    Args:
        path: Where the picture goes.
        images: As for `grid`.
        columns: Pictures per row; by default the grid is about square, without an incomplete row where possible.
    """
    buffer = io.BytesIO()
    grid(images, columns or _square_columns(len(images))).save(buffer, format="PNG", optimize=True)
    replace_file(path, buffer.getvalue())


def _square_columns(count: int) -> int:
    """The smallest divisor of `count` from its root up to twice that, else the root rounded up."""
    root = max(1, math.ceil(math.sqrt(count)))
    return next((c for c in range(root, 2 * root + 1) if count % c == 0), root)
