"""Reads a U-Net that diffusers saved; from safetensors alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from diffusers import UNet2DModel
from orwcfm_core.errors import UserError
from safetensors import SafetensorError

from orwcfm_backbone_torchcfm.convert import network

__all__ = ["load_network"]

_FOREIGN = (OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError, SafetensorError)
"""What diffusers raises where files are missing, damaged or another model's."""


def load_network(weights: str) -> UNet2DModel:
    """Read a network.

    Args:
        weights: A folder with config.json and diffusion_pytorch_model.safetensors, as `save_pretrained` writes it.

    Returns:
        In float32 and set to evaluation.

    Raises:
        UserError: There is no such folder, or it holds another network.
    """
    try:
        if not Path(weights).is_dir():
            raise ValueError("there is no such folder")
        # low_cpu_mem_usage would want a package more.
        loaded, found = UNet2DModel.from_pretrained(
            weights, use_safetensors=True, local_files_only=True, low_cpu_mem_usage=False, output_loading_info=True
        )
        # diffusers goes on with random values for tensors that a file lacks.
        if lost := found["missing_keys"]:
            raise ValueError(f"it has no {min(lost)}")
        # Another network may as well be one that predicts noise, or wants classes.
        with torch.device("meta"):
            expected = network(loaded.config.block_out_channels[0])
        config, wanted = _architecture(loaded), _architecture(expected)
        if other := sorted(name for name in wanted if config.get(name) != wanted[name]):
            raise ValueError(f"its {other[0]} is {config.get(other[0])}, expected {wanted[other[0]]}")
    except _FOREIGN as e:
        reason = " ".join(str(e).split())[:300]
        raise UserError(
            f"backbone.weights: expected a folder that 'python -m orwcfm_backbone_torchcfm.convert CHECKPOINT FOLDER' "
            f"wrote, got '{weights}': {reason}"
        ) from e
    return loaded.eval()


def _architecture(unet: UNet2DModel) -> dict[str, Any]:
    """What the constructor was called with."""
    return {
        name: list(value) if isinstance(value, tuple) else value
        for name, value in unet.config.items()
        if not name.startswith("_")
    }
