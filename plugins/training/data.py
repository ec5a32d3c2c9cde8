"""Read Fashion-MNIST and MNIST, in the IDX format that both are published in."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

__all__ = ["CLASSES", "load"]

CLASSES = {
    "fashion": ["t-shirt", "trousers", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "boot"],
    "mnist": ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"],
}


def load(folder: Path, split: str) -> tuple[Tensor, Tensor]:
    """Images and labels of one split.

    Args:
        folder: Folder with the four IDX files, gzipped or not (README.md says where to get them).
        split: `train` or `test`.

    Returns:
        Images in [0, 1], `(N, 1, 28, 28)`, and labels in 0..9, `(N,)`.
    """
    prefix = {"train": "train", "test": "t10k"}[split]
    images = _read(folder / f"{prefix}-images-idx3-ubyte", header=16)
    labels = _read(folder / f"{prefix}-labels-idx1-ubyte", header=8)
    return images.view(-1, 1, 28, 28).float() / 255, labels.long()


def _read(path: Path, header: int) -> Tensor:
    zipped = path.with_name(path.name + ".gz")
    raw = gzip.decompress(zipped.read_bytes()) if zipped.exists() else path.read_bytes()
    return torch.from_numpy(np.frombuffer(raw, dtype=np.uint8, offset=header).copy())
