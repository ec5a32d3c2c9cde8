"""Write the weights of a TorchCFM checkpoint as a U-Net of diffusers.

    python -m orwcfm_backbone_torchcfm.convert fm_cifar10_weights_step_400000.pt cifar10

The checkpoint is one of TorchCFM's `train_cifar10.py`, of any width. It is a pickle: nothing but tensors and plain
values is read from it, and what would run code is refused.
"""

from __future__ import annotations

import argparse
import shutil
import struct
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from pickle import UnpicklingError

import torch
from diffusers import UNet2DModel
from safetensors import SafetensorError
from torch import Tensor

__all__ = ["convert", "network"]

_FOREIGN = (
    *(EOFError, LookupError, ValueError, TypeError, AttributeError, RuntimeError),
    *(UnpicklingError, struct.error),
)
"""What torch raises for a file that is no checkpoint."""

_HEAD = 64
"""Channels of an attention head."""
_WIDTHS = (1, 2, 2, 2)
"""Channels at each resolution, from 32x32 down, as multiples of the first."""
_LAYERS = 2
"""Residual blocks at each resolution on the way down; one more on the way up."""
_ATTENTION = 1
"""The resolution that has attention, 16x16."""

_RESIDUAL = {
    "in_layers.0": "norm1",
    "in_layers.2": "conv1",
    "emb_layers.1": "time_emb_proj",
    "out_layers.0": "norm2",
    "out_layers.3": "conv2",
    "skip_connection": "conv_shortcut",
}


def network(width: int) -> UNet2DModel:
    """The architecture of `train_cifar10.py`, without its dropout; its weights are random.

    Args:
        width: Channels at the highest resolution, a multiple of 32; the published checkpoints have 128.
    """
    levels = range(len(_WIDTHS))
    down = tuple("AttnDownBlock2D" if level == _ATTENTION else "DownBlock2D" for level in levels)
    up = tuple("AttnUpBlock2D" if level == _ATTENTION else "UpBlock2D" for level in reversed(levels))
    return UNet2DModel(
        sample_size=32,
        in_channels=3,
        out_channels=3,
        freq_shift=0,
        flip_sin_to_cos=True,
        down_block_types=down,
        up_block_types=up,
        block_out_channels=tuple(width * n for n in _WIDTHS),
        layers_per_block=_LAYERS,
        attention_head_dim=_HEAD,
        norm_num_groups=32,
        norm_eps=1e-5,
    )


def convert(tensors: Mapping[str, Tensor]) -> UNet2DModel:
    """A network with TorchCFM's weights.

    Args:
        tensors: A state that TorchCFM's `UNetModelWrapper` saved, by its names.

    Returns:
        In float32 and set to evaluation.

    Raises:
        ValueError: A tensor is missing, is too many or has another shape.
    """
    # Several GPUs put a word before all names.
    tensors = {name.removeprefix("module."): tensor.float() for name, tensor in tensors.items()}
    stem = tensors.get("input_blocks.0.0.weight")
    if stem is None or stem.dim() != 4 or len(stem) % 32:
        raise ValueError("it has no input_blocks.0.0.weight of a multiple of 32 channels")
    modules = dict(_modules())
    found: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        # Attention is made of convolutions over a line of pixels there, of linear layers here.
        values = tensor.squeeze(-1) if tensor.dim() == 3 else tensor
        module, _, kind = name.rpartition(".")
        if module.endswith(".qkv"):
            attention = modules.get(module.removesuffix(".qkv"), module)
            for part, rows in zip("qkv", _heads(values), strict=True):
                found[f"{attention}.to_{part}.{kind}"] = rows
        else:
            found[f"{modules.get(module, module)}.{kind}"] = values
    converted = network(len(stem))
    try:
        converted.load_state_dict(found)
    except RuntimeError as e:
        raise ValueError(" ".join(str(e).split())[:200]) from e
    return converted.eval()


def _modules() -> Iterator[tuple[str, str]]:
    """What TorchCFM and diffusers call each module."""
    yield from {
        "time_embed.0": "time_embedding.linear_1",
        "time_embed.2": "time_embedding.linear_2",
        "input_blocks.0.0": "conv_in",
        "out.0": "conv_norm_out",
        "out.2": "conv_out",
    }.items()
    yield from _residual("middle_block.0", "mid_block.resnets.0")
    yield from _attention("middle_block.1", "mid_block.attentions.0")
    yield from _residual("middle_block.2", "mid_block.resnets.1")
    last = len(_WIDTHS) - 1
    for level in range(last + 1):
        # Blocks are numbered through: those of the way in after the first convolution, those of the way out from the
        # lowest resolution up. The last of a resolution's leads to the next.
        way_in, way_out = 1 + level * (_LAYERS + 1), (last - level) * (_LAYERS + 1)
        down, up = f"down_blocks.{level}", f"up_blocks.{last - level}"
        attends = level == _ATTENTION
        for layer in range(_LAYERS):
            yield from _layer(f"input_blocks.{way_in + layer}", down, layer, attends)
        for layer in range(_LAYERS + 1):
            yield from _layer(f"output_blocks.{way_out + layer}", up, layer, attends)
        yield f"input_blocks.{way_in + _LAYERS}.0.op", f"{down}.downsamplers.0.conv"
        yield f"output_blocks.{way_out + _LAYERS}.{1 + attends}.conv", f"{up}.upsamplers.0.conv"


def _layer(theirs: str, ours: str, layer: int, attends: bool) -> Iterator[tuple[str, str]]:
    yield from _residual(f"{theirs}.0", f"{ours}.resnets.{layer}")
    if attends:
        yield from _attention(f"{theirs}.1", f"{ours}.attentions.{layer}")


def _residual(theirs: str, ours: str) -> Iterator[tuple[str, str]]:
    for name, module in _RESIDUAL.items():
        yield f"{theirs}.{name}", f"{ours}.{module}"


def _attention(theirs: str, ours: str) -> Iterator[tuple[str, str]]:
    yield theirs, ours
    yield f"{theirs}.norm", f"{ours}.group_norm"
    yield f"{theirs}.proj_out", f"{ours}.to_out.0"


def _heads(qkv: Tensor) -> tuple[Tensor, ...]:
    """Queries, keys and values `(C, *)` of what holds them head by head, `(3 C, *)`.

    Raises:
        ValueError: These are no whole heads.
    """
    if qkv.dim() == 0 or len(qkv) % (3 * _HEAD):
        raise ValueError(f"its attention is {tuple(qkv.shape)}, which are no heads of {_HEAD} channels")
    return tuple(part.flatten(0, 1) for part in qkv.unflatten(0, (-1, 3, _HEAD)).unbind(1))


def _read(checkpoint: Path) -> Mapping[str, Tensor]:
    """The averaged weights.

    Raises:
        ValueError: There is no such file, or there are none in it.
    """
    try:
        saved = torch.load(checkpoint, map_location="cpu", weights_only=True)
    except OSError as e:
        raise ValueError(e.strerror or str(e)) from e
    except _FOREIGN as e:
        # torch's own words advise to read it without these limits.
        raise ValueError("it is damaged, or holds more than tensors and plain values") from e
    averaged = saved.get("ema_model") if isinstance(saved, dict) else None
    if not isinstance(averaged, dict) or not all(
        isinstance(name, str) and isinstance(value, Tensor) for name, value in averaged.items()
    ):
        raise ValueError("it has no ema_model")
    return averaged


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(
        prog="python -m orwcfm_backbone_torchcfm.convert",
        description="Write the averaged weights of a checkpoint of TorchCFM's train_cifar10.py for orwcfm.",
    )
    parser.add_argument("checkpoint", type=Path, help="such as fm_cifar10_weights_step_400000.pt")
    parser.add_argument("folder", type=Path, help="to be made; --set backbone.weights=FOLDER reads it")
    args = parser.parse_args(argv)
    try:
        converted = convert(_read(args.checkpoint))
    except ValueError as e:
        parser.error(f"{args.checkpoint}: expected a checkpoint of TorchCFM's train_cifar10.py: {e}")
    try:
        args.folder.mkdir()
    except OSError as e:
        parser.error(f"{args.folder}: cannot be made ({e.strerror}); name a folder that is not there yet")
    try:
        converted.save_pretrained(args.folder)
    except (OSError, SafetensorError) as e:
        shutil.rmtree(args.folder)
        parser.error(f"{args.folder}: cannot be written ({e})")
    print(f"{args.folder}: use it with --backbone torchcfm --set backbone.weights={args.folder}")


if __name__ == "__main__":
    main()
