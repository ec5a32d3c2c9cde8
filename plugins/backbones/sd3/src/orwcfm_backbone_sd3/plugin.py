"""What orwcfm knows of this backbone before it is built; light, no torch."""

from __future__ import annotations

import os
from typing import Literal

from orwcfm_core.plugin import BackboneSpec, ComponentConfig, Suggestions, absolute_path, hookimpl
from pydantic import Field, field_validator

__all__ = ["Config", "orwcfm_backbones"]


class Config(ComponentConfig):
    """Options of the backbone."""

    model: str = Field(
        "stabilityai/stable-diffusion-3.5-medium",
        min_length=1,
        description="A Stable Diffusion 3 model on the Hugging Face hub, or a local folder in diffusers' format.",
    )
    resolution: int = Field(
        512, ge=16, le=4096, description="Width and height in pixels; a multiple of 16 for the published models."
    )
    guidance: float = Field(
        4.5, ge=1, le=20, description="Classifier-free guidance; 1 is none, and halves the model evaluations."
    )
    rank: int = Field(16, ge=1, le=1024, description="Rank of the LoRA that is trained.")
    dtype: Literal["bf16", "fp32"] = Field(
        "bf16", description="Precision of the frozen transformer and text encoders; LoRA and VAE are in fp32."
    )
    t5: bool = Field(
        True, description="Load the third text encoder, T5, if the model has one; prompts lose detail without."
    )
    gradient_checkpointing: bool = Field(
        False, description="Compute activations again in the backward pass: less memory, more time."
    )

    @field_validator("model")
    @classmethod
    def _folder_from_anywhere(cls, model: str) -> str:
        return folder if os.path.isdir(folder := absolute_path(model)) else model


def suggest(config: Config, prompts: tuple[str, ...]) -> Suggestions:
    """Prompts of pictures that the model draws well, a judge of their fit, batches, a rate and its authors' shift."""
    return Suggestions(
        prompts=(
            "a photo of a corgi running on a beach",
            "a red steam train crossing a stone bridge",
            "an oil painting of a lighthouse in a storm",
        ),
        heldout=("clip-score",),
        run={
            "train": {"samples": 48, "micro_batch": 4, "eval_samples": 48, "lr": 2e-4},
            "sampler": {"steps": 20, "shift": 3.0},
        },
    )


@hookimpl
def orwcfm_backbones() -> list[BackboneSpec]:
    """Stable Diffusion 3."""
    return [
        BackboneSpec(
            name="sd3",
            summary="Stable Diffusion 3 and 3.5 through diffusers, fine-tuned by LoRA.",
            config=Config,
            factory="orwcfm_backbone_sd3.backbone:Sd3Backbone",
            references=(
                "Stable Diffusion 3: Esser et al., 2024, arXiv:2403.03206",
                "LoRA: Hu et al., 2021, arXiv:2106.09685",
                "Classifier-free guidance: Ho and Salimans, 2022, arXiv:2207.12598",
            ),
            conditional=lambda config: True,
            suggest=suggest,
        )
    ]
