"""The reward `clip-score`, as the registry sees it."""

from __future__ import annotations

import os

from orwcfm_core.plugin import ComponentConfig, Example, RewardSpec, absolute_path, hookimpl
from pydantic import Field, field_validator

__all__ = ["Config", "orwcfm_rewards"]


class Config(ComponentConfig):
    """Options of `clip-score`."""

    model: str = Field(
        "ViT-B-32",
        min_length=1,
        description="An open_clip model, small for the one that comes along, or a local folder in open_clip's format.",
    )
    pretrained: str | None = Field(
        None,
        description="open_clip's tag of the weights, or a .safetensors file; unset: laion2b_s34b_b79k for ViT-B-32.",
    )

    @field_validator("model")
    @classmethod
    def _folder_from_anywhere(cls, model: str) -> str:
        path = model.removeprefix("local-dir:")
        named = path != model or os.sep in model
        return absolute_path(path) if named and os.path.isdir(absolute_path(path)) else model

    @field_validator("pretrained")
    @classmethod
    def _file_from_anywhere(cls, pretrained: str | None) -> str | None:
        return absolute_path(pretrained) if pretrained and pretrained.endswith(".safetensors") else pretrained


@hookimpl
def orwcfm_rewards() -> list[RewardSpec]:
    """How well an image fits its prompt."""
    return [
        RewardSpec(
            name="clip-score",
            summary="How well the image fits its prompt, by the cosine similarity of CLIP embeddings.",
            config=Config,
            factory="orwcfm_reward_clip_score.reward:ClipScore",
            references=(
                "Radford et al., CLIP, 2021, arXiv:2103.00020",
                "Hessel et al., CLIPScore, 2021, arXiv:2104.08718",
                "Zhai et al., SigLIP, 2023, arXiv:2303.15343",
            ),
            value_range=(-1.0, 1.0),
            differentiable=True,
            example=Example(options={"model": "small"}, shape=(1, 28, 28), prompts=("a boot", "a bag")),
        )
    ]
