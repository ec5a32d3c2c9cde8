"""What orwcfm knows of this backbone before it is built; light, no torch."""

from __future__ import annotations

from orwcfm_core.plugin import BackboneSpec, ComponentConfig, Suggestions, absolute_path, hookimpl
from pydantic import Field, field_validator

__all__ = ["Config", "orwcfm_backbones"]


class Config(ComponentConfig):
    """Options of the backbone."""

    weights: str = Field(
        min_length=1,
        description="A folder that 'python -m orwcfm_backbone_torchcfm.convert CHECKPOINT FOLDER' wrote.",
    )

    _from_anywhere = field_validator("weights")(absolute_path)


def suggest(config: Config, prompts: tuple[str, ...]) -> Suggestions:
    """The paper's prompt, and a judge of how a picture fits it."""
    return Suggestions(prompts=("a dog",), heldout=("clip-score",))


@hookimpl
def orwcfm_backbones() -> list[BackboneSpec]:
    """TorchCFM's U-Net."""
    return [
        BackboneSpec(
            name="torchcfm",
            summary="U-Net for 32x32 colour pictures, from a CIFAR-10 checkpoint of TorchCFM.",
            config=Config,
            factory="orwcfm_backbone_torchcfm.backbone:TorchCfmBackbone",
            references=(
                "TorchCFM: Tong et al., 2023, arXiv:2302.00482",
                "Its U-Net: Dhariwal and Nichol, 2021, arXiv:2105.05233",
            ),
            suggest=suggest,
        )
    ]
