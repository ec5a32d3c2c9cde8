"""From images in [0, 1] to what a CLIP was trained on, in tensors all the way."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from orwcfm_core.errors import RunError
from torch import Tensor
from torchvision.transforms.functional import InterpolationMode, center_crop, normalize, pad, resize

__all__ = ["prepare"]


def prepare(images: Tensor, config: Mapping[str, Any]) -> Tensor:
    """Resize if need be, and normalise; gradients pass.

    Args:
        images: `(B, 1, H, W)`, whose channel is repeated, or `(B, 3, H, W)`; in [0, 1].
        config: open_clip's preprocessing options: size, mean, std, interpolation, resize_mode, fill_color.

    Returns:
        `(B, 3, *size)`, float32.

    Raises:
        RunError: The images have neither one channel nor three.
    """
    if images.ndim != 4 or images.shape[1] not in (1, 3):
        raise RunError(f"expected images of 1 or 3 channels, (B, C, H, W), got shape {tuple(images.shape)}")
    images = images.float().expand(-1, 3, -1, -1)
    size = config["size"]
    height, width = (size, size) if isinstance(size, int) else size
    if images.shape[-2:] != (height, width):
        images = _fit(images, height, width, config)
    normal: Tensor = normalize(images, list(config["mean"]), list(config["std"]))
    return normal


def _fit(images: Tensor, height: int, width: int, config: Mapping[str, Any]) -> Tensor:
    """Bring images to a size: squashed, or cut to fill it (`shortest`), or framed to lie within it (`longest`)."""
    h, w = images.shape[-2:]
    mode = config["resize_mode"]
    if mode == "squash":
        target = [height, width]
    elif mode == "longest":
        scale = min(height / h, width / w)
        target = [round(h * scale), round(w * scale)]
    else:
        # Rounded down, as torchvision does for the edge that is cut.
        target = (
            [max(height, h * width // w), width] if height * w < h * width else [height, max(width, w * height // h)]
        )
    images = resize(images, target, InterpolationMode(config["interpolation"]), antialias=True)
    # Bicubic interpolation overshoots; 8-bit pictures, on which the models were trained, cannot.
    images = images.clamp(0, 1)
    down, across = max(height - target[0], 0), max(width - target[1], 0)
    if down or across:
        frame = [across // 2, down // 2, across - across // 2, down - down // 2]
        images = pad(images, frame, fill=config["fill_color"] / 255)
    cut: Tensor = center_crop(images, [height, width])
    return cut
