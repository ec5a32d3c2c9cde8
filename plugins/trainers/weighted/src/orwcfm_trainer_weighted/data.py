"""A fixed set of samples from files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from orwcfm_core.backbone import Backbone
from orwcfm_core.errors import UserError
from orwcfm_core.picture_file import read_picture
from torch import Tensor

__all__ = ["check_samples", "read_samples"]

_PICTURES = {".png", ".jpg", ".jpeg", ".webp", ".bmp"}


def read_samples(path: Path, backbone: Backbone, prompts: Sequence[str]) -> tuple[Tensor, list[int]]:
    """Read samples.

    Args:
        path: A .npy file of samples `(N, *)`, which take the prompts in turn; or a folder of pictures, with a folder
            for each prompt, named after it, where there are several.
        backbone: Turns pictures into samples.
        prompts: Those of the run.

    Returns:
        Samples, `(N, *)` float32, and the number of each one's prompt.

    Raises:
        UserError: There are none, or they do not fit the backbone.
    """
    if _is_array(path):
        x_1 = _points(path, backbone)
        return x_1, [i % len(prompts) for i in range(len(x_1))]
    files = _files(path, prompts)
    return torch.cat([_sample(file, backbone) for file, _ in files]), [i for _, i in files]


def check_samples(path: Path, backbone: Backbone, prompts: Sequence[str]) -> None:
    """See that `read_samples` will find samples, as far as the first one tells; arguments and errors as there."""
    if _is_array(path):
        _points(path, backbone)
    else:
        _sample(_files(path, prompts)[0][0], backbone)


def _is_array(path: Path) -> bool:
    return path.suffix == ".npy" and path.is_file()


def _files(path: Path, prompts: Sequence[str]) -> list[tuple[Path, int]]:
    """Pictures, each with the number of its prompt."""
    if not path.is_dir():
        raise UserError(f"train.data: expected a folder of pictures or a .npy file, got '{path}'")
    return [(file, i) for i, folder in enumerate(_folders(path, prompts)) for file in _pictures(folder)]


def _points(path: Path, backbone: Backbone) -> Tensor:
    try:
        array = np.load(path, allow_pickle=False)
        x_1 = torch.from_numpy(np.ascontiguousarray(array, dtype=np.float32))
    except (OSError, ValueError, TypeError) as e:
        raise UserError(f"train.data: cannot read {path}: {' '.join(str(e).split())}") from e
    if x_1.ndim < 1 or not len(x_1) or tuple(x_1.shape[1:]) != backbone.sample_shape:
        raise UserError(f"train.data: expected samples (N, {_comma(backbone.sample_shape)}), got {tuple(x_1.shape)}")
    finite = x_1.reshape(len(x_1), -1).isfinite().all(1)
    if not finite.all():
        raise UserError(
            f"train.data: {path} has numbers that are not finite, first in sample {int(finite.int().argmin())}"
        )
    return x_1


def _folders(path: Path, prompts: Sequence[str]) -> list[Path]:
    folders = [path] if len(prompts) == 1 else [path / prompt for prompt in prompts]
    missing = [folder.name for folder in folders if not folder.is_dir()]
    if missing:
        raise UserError(f"train.data: {path} has no folder of pictures for the prompt '{missing[0]}'")
    return folders


def _pictures(folder: Path) -> list[Path]:
    found = sorted(file for file in folder.rglob("*") if file.suffix.lower() in _PICTURES)
    if not found:
        raise UserError(f"train.data: no pictures in {folder} ({', '.join(sorted(_PICTURES))})")
    return found


def _sample(file: Path, backbone: Backbone) -> Tensor:
    """One picture as a sample, `(1, *)`."""
    pixels = np.asarray(read_picture(file, "train.data"), dtype=np.float32) / 255
    x_1 = backbone.from_images(torch.from_numpy(pixels).movedim(2, 0)[None])
    if x_1 is None:
        raise UserError("train.data: this backbone cannot turn pictures into samples; give a .npy file of samples")
    return x_1.float().cpu()


def _comma(shape: tuple[int, ...]) -> str:
    return ", ".join(map(str, shape))
