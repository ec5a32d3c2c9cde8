"""A small U-Net velocity field for 28x28 grey images, sized for a laptop's CPU."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["UNet"]


class ChannelNorm(nn.Module):
    """Layer normalisation over the channels of each pixel; its transposes cost nothing in channels-last memory."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        w, b = self.weight.to(x.dtype), self.bias.to(x.dtype)
        return F.layer_norm(x.permute(0, 2, 3, 1), w.shape, w, b).permute(0, 3, 1, 2)


class ResBlock(nn.Module):
    """Two 3x3 convolutions around a skip connection, modulated by an embedding of time and class."""

    def __init__(self, channels_in: int, channels_out: int, embedding: int) -> None:
        super().__init__()
        self.norm1 = ChannelNorm(channels_in)
        self.conv1 = nn.Conv2d(channels_in, channels_out, 3, padding=1)
        self.modulation = nn.Linear(embedding, 2 * channels_out)
        self.norm2 = ChannelNorm(channels_out)
        self.conv2 = nn.Conv2d(channels_out, channels_out, 3, padding=1)
        self.skip = nn.Conv2d(channels_in, channels_out, 1) if channels_in != channels_out else nn.Identity()
        nn.init.zeros_(self.conv2.weight)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x)))
        scale, shift = self.modulation(embedding)[:, :, None, None].chunk(2, dim=1)
        h = self.norm2(h) * (1 + scale) + shift
        return self.skip(x) + self.conv2(F.silu(h))


class Attention(nn.Module):
    """Self-attention over all pixels, with a residual connection."""

    def __init__(self, channels: int, heads: int = 4) -> None:
        super().__init__()
        self.heads = heads
        self.norm = ChannelNorm(channels)
        self.qkv = nn.Linear(channels, 3 * channels)
        self.out = nn.Linear(channels, channels)
        nn.init.zeros_(self.out.weight)

    def forward(self, x: Tensor) -> Tensor:
        B, C, H, W = x.shape
        tokens = self.norm(x).permute(0, 2, 3, 1).reshape(B, H * W, C)
        q, k, v = self.qkv(tokens).view(B, H * W, 3, self.heads, C // self.heads).permute(2, 0, 3, 1, 4)
        # Written out: at 49 tokens this is several times faster on a CPU in bfloat16 than the fused kernel's backward.
        scores = (q @ k.transpose(-1, -2) * (C // self.heads) ** -0.5).softmax(-1).to(v.dtype)
        mixed = (scores @ v).transpose(1, 2).reshape(B, H, W, C)
        return x + self.out(mixed).permute(0, 3, 1, 2)


class Upsample(nn.Module):
    """Double the resolution: a 3x3 convolution at the low resolution, then depth to space."""

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels_in, 4 * channels_out, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return F.pixel_shuffle(self.conv(x), 2).contiguous(memory_format=torch.channels_last)


class UNet(nn.Module):
    """Velocity `v(t, x, label)` as a U-Net on 2x2 patches, with attention at the lowest resolution.

    References:
        U-Net: Convolutional Networks for Biomedical Image Segmentation (Ronneberger et al., 2015), arXiv:1505.04597
        simple diffusion (Hoogeboom et al., 2023), arXiv:2301.11093: patches first, most parameters at low resolution

    Args:
        channels: Width at each resolution: 14x14, then 7x7.
        blocks: Residual blocks at each resolution.
        embedding: Width of the embedding of time and class.
        classes: Number of classes; label `classes` is the null class, for unconditional use and guidance.
    """

    def __init__(
        self,
        channels: tuple[int, ...] = (48, 96),
        blocks: tuple[int, ...] = (1, 1),
        embedding: int = 128,
        classes: int = 10,
    ) -> None:
        super().__init__()
        self.null_class = classes
        self.time = nn.Sequential(nn.Linear(64, embedding), nn.SiLU(), nn.Linear(embedding, embedding))
        self.label = nn.Embedding(classes + 1, embedding)
        self.stem = nn.Conv2d(4, channels[0], 3, padding=1)

        self.down = nn.ModuleList()
        width, skips = channels[0], []
        for level, (c, n) in enumerate(zip(channels, blocks, strict=True)):
            if level:
                self.down.append(nn.Conv2d(width, c, 3, stride=2, padding=1))
                width = c
            for _ in range(n):
                self.down.append(ResBlock(width, c, embedding))
                width = c
                skips.append(c)

        self.middle = nn.ModuleList(
            [ResBlock(width, width, embedding), Attention(width), ResBlock(width, width, embedding)]
        )

        self.up = nn.ModuleList()
        for level, (c, n) in reversed(list(enumerate(zip(channels, blocks, strict=True)))):
            for _ in range(n):
                self.up.append(ResBlock(width + skips.pop(), c, embedding))
                width = c
            if level:
                self.up.append(Upsample(width, channels[level - 1]))
                width = channels[level - 1]

        self.head = nn.Sequential(ChannelNorm(width), nn.SiLU(), nn.Conv2d(width, 4, 3, padding=1))
        self.to(memory_format=torch.channels_last)

    def forward(self, t: Tensor, x: Tensor, label: Tensor | None = None) -> Tensor:
        """Evaluate the velocity.

        Args:
            t: Time in [0, 1], `()` or `(B,)`; 0 is noise, 1 is data.
            x: Images in [-1, 1] with noise, `(B, 1, 28, 28)`.
            label: Class of each sample, `(B,)` integers; None means the null class.

        Returns:
            The velocity, `(B, 1, 28, 28)`, in the dtype of `x`.
        """
        t = t.to(x.dtype).expand(x.shape[0])
        if label is None:
            label = torch.full((x.shape[0],), self.null_class, device=x.device)
        frequency = torch.exp(torch.linspace(0, math.log(1000.0), 32, device=x.device, dtype=x.dtype))
        angle = t[:, None] * frequency
        embedding = F.silu(self.time(torch.cat([angle.sin(), angle.cos()], dim=1)) + self.label(label))

        h = self.stem(F.pixel_unshuffle(x, 2).contiguous(memory_format=torch.channels_last))
        skips = []
        for module in self.down:
            if isinstance(module, ResBlock):
                h = module(h, embedding)
                skips.append(h)
            else:
                h = module(h)
        for module in self.middle:
            h = module(h, embedding) if isinstance(module, ResBlock) else module(h)
        for module in self.up:
            h = module(torch.cat([h, skips.pop()], dim=1), embedding) if isinstance(module, ResBlock) else module(h)
        return F.pixel_shuffle(self.head(h).to(x.dtype), 2)
