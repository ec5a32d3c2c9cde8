"""The rewards `jpeg-compressibility` and `jpeg-incompressibility`, as the registry sees them."""

from __future__ import annotations

from orwcfm_core.plugin import ComponentConfig, RewardSpec, hookimpl
from pydantic import Field

__all__ = ["Config", "orwcfm_rewards"]


class Config(ComponentConfig):
    """Options of both rewards."""

    quality: int = Field(95, ge=1, le=100, description="JPEG quality, 1 to 100.")


_DDPO = "Black et al., Training Diffusion Models with Reinforcement Learning, 2023, arXiv:2305.13301"


@hookimpl
def orwcfm_rewards() -> list[RewardSpec]:
    """Small files, and large ones."""
    return [
        RewardSpec(
            name="jpeg-compressibility",
            summary="Minus the size of the image as JPEG, in kB (1000 bytes).",
            config=Config,
            factory="orwcfm_reward_jpeg.reward:JpegCompressibility",
            references=(_DDPO,),
            value_range=(None, 0.0),
            reads_prompts=False,
        ),
        RewardSpec(
            name="jpeg-incompressibility",
            summary="The size of the image as JPEG, in kB (1000 bytes).",
            config=Config,
            factory="orwcfm_reward_jpeg.reward:JpegIncompressibility",
            references=(_DDPO,),
            value_range=(0.0, None),
            reads_prompts=False,
        ),
    ]
