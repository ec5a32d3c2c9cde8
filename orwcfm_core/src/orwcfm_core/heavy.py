"""Packages that take long to import."""

from __future__ import annotations

__all__ = ["HEAVY"]

HEAVY = (
    *("torch", "torchvision", "numpy", "scipy", "pandas", "sklearn", "PIL", "cv2", "matplotlib"),
    *("transformers", "diffusers", "peft", "accelerate", "timm", "open_clip", "tensorflow", "jax"),
    *("tensorboard", "wandb", "trackio"),
)
"""What a light module must not import: `orwcfm --help` and `orwcfm plugins list` import these modules."""
