"""A picture from a file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from orwcfm_core.errors import UserError

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["read_picture"]


def read_picture(path: Path, option: str, mode: str = "RGB") -> Image:
    """Read a picture of 8 bits for each channel; needs pillow (`orwcfm-core[pictures]`).

    Args:
        path: In any format that pillow reads.
        option: What named the file, for the error.
        mode: Pillow's: "RGB", or "L" for grey.

    Returns:
        The picture in that mode, of the size that it has.

    Raises:
        UserError: The file cannot be read, is no picture, has too many pixels, or more than 8 bits for each channel.
    """
    from PIL import Image

    try:
        with Image.open(path) as picture:
            # Converted to 8 bits, deeper pixels would be cut off at white.
            if picture.mode.startswith("I") or picture.mode == "F":
                raise UserError(
                    f"{option}: {path} has more than 8 bits for each channel (mode {picture.mode}); save it with 8"
                )
            return picture.convert(mode)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as e:
        raise UserError(f"{option}: cannot read picture {path}: {e}") from e
