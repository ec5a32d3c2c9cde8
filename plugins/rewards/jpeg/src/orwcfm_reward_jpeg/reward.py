"""How many bytes an image takes as JPEG."""

from __future__ import annotations

import io
from collections.abc import Sequence

import torch
from orwcfm_core.errors import RunError
from orwcfm_core.reward import Reward, Scores
from PIL import Image
from torch import Tensor

from orwcfm_reward_jpeg.plugin import Config

__all__ = ["JpegCompressibility", "JpegIncompressibility", "jpeg_sizes"]


def jpeg_sizes(images: Tensor, quality: int) -> Tensor:
    """Sizes of the images as JPEG files.

    Pillow encodes, and everything but the quality is at its default: no `optimize`, no progressive scans, and the
    encoder's own chroma subsampling. Values outside [0, 1] are clipped, then rounded to 8 bits.

    Args:
        images: `(B, 1, H, W)`, encoded in grey, or `(B, 3, H, W)`, encoded in colour; in [0, 1].
        quality: 1 to 100.

    Returns:
        Sizes in kB, 1 kB = 1000 bytes, `(B,)`, on the CPU.

    Raises:
        RunError: The images have neither one channel nor three.
    """
    if images.ndim != 4 or images.shape[1] not in (1, 3):
        raise RunError(f"expected images of 1 or 3 channels, (B, C, H, W), got shape {tuple(images.shape)}")
    pixels = (images.detach().float().nan_to_num(0.0).clamp(0, 1) * 255).round().byte().movedim(1, -1).cpu().numpy()
    sizes = []
    for image in pixels:
        file = io.BytesIO()
        # An (H, W) array becomes mode L, an (H, W, 3) array mode RGB.
        Image.fromarray(image.squeeze(-1) if image.shape[-1] == 1 else image).save(file, "JPEG", quality=quality)
        sizes.append(file.tell() / 1000)
    return torch.tensor(sizes)


class JpegIncompressibility(Reward):
    """The size of the image as JPEG, in kB of 1000 bytes: larger is better.

    An image with a pixel that is not finite is invalid. Gradients do not reach the images.

    Args:
        config: Options.

    References:
        Training Diffusion Models with Reinforcement Learning (DDPO; Black et al., 2023),
        https://arxiv.org/abs/2305.13301, which encodes at quality 95 as well.
    """

    sign = 1.0

    def __init__(self, config: Config) -> None:
        self.quality = config.quality

    def score(self, images: Tensor, prompts: Sequence[str]) -> Scores:
        sizes = jpeg_sizes(images, self.quality).to(images.device)
        return Scores(self.sign * sizes, images.flatten(1).isfinite().all(1))

    def describe(self) -> str:
        return f"{'minus ' if self.sign < 0 else ''}the size in kB (1000 bytes) as JPEG of quality {self.quality}"


class JpegCompressibility(JpegIncompressibility):
    """Minus the size of the image as JPEG, in kB of 1000 bytes: smaller files are better."""

    sign = -1.0
