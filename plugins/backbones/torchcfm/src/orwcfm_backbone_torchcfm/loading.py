"""Reads a U-Net that diffusers saved; from safetensors alone."""

from __future__ import annotations

from pathlib import Path

from diffusers import UNet2DModel
from orwcfm_core.errors import UserError
from safetensors import SafetensorError

__all__ = ["load_network"]

_FOREIGN = (OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError, SafetensorError)
"""What diffusers raises where files are missing, damaged or another model's."""


def load_network(weights: str) -> UNet2DModel:
    """Read a network.

    Args:
        weights: A folder with config.json and diffusion_pytorch_model.safetensors, as `save_pretrained` writes it.

    Raises:
        UserError: There is no such folder, or it holds no unconditional U-Net from pictures to pictures.
    """
    try:
        if not Path(weights).expanduser().is_dir():
            raise ValueError("there is no such folder")
        network, found = UNet2DModel.from_pretrained(
            Path(weights).expanduser(), use_safetensors=True, local_files_only=True, output_loading_info=True
        )
        # diffusers goes on with random values for tensors that a file lacks.
        if lost := found["missing_keys"]:
            raise ValueError(f"it has no {min(lost)}")
        config = network.config
        if config.in_channels != config.out_channels or not isinstance(config.sample_size, int):
            raise ValueError("its output is not as large as its input")
        if network.class_embedding is not None:
            raise ValueError("it needs a class for every picture")
    except _FOREIGN as e:
        reason = " ".join(str(e).split())[:300]
        raise UserError(
            f"backbone.weights: expected a folder that 'python -m orwcfm_backbone_torchcfm.convert CHECKPOINT FOLDER' "
            f"wrote, got '{weights}': {reason}"
        ) from e
    return network.eval()
