"""What orwcfm knows of this backbone before it is built."""

from __future__ import annotations

from orwcfm_core.plugin import BackboneSpec, ComponentConfig, Example, Suggestions, absolute_path, hookimpl
from pydantic import Field, field_validator

from orwcfm_backbone_unet.classes import VOCABULARY, data_of


class Config(ComponentConfig):
    """Options of the backbone."""

    weights: str = Field("fashion", description="fashion, mnist, or the path of a .safetensors file.")
    conditional: bool = Field(False, description="Draw the class that a prompt names, instead of any.")
    guidance: float = Field(
        1.0, ge=0, le=20, description="Classifier-free guidance; 1 is none, and only a conditional model has it."
    )

    @field_validator("weights")
    @classmethod
    def _from_anywhere(cls, weights: str) -> str:
        return weights if weights in VOCABULARY else absolute_path(weights)


_PROMPTS = {"fashion": "footwear", "mnist": "an even digit"}
_EACH = {"fashion": ("a sandal", "a sneaker", "a boot"), "mnist": ("zero", "two", "four", "six", "eight")}


def suggest(config: Config, prompts: tuple[str, ...]) -> Suggestions:
    """Prompts, models, a judge and steps that fit the pictures this backbone draws."""
    # Half the error of 5 steps of the midpoint rule, or less, for as many evaluations (benchmarks/solvers.py).
    run = {"sampler": {"name": "adams", "steps": 10, "shift": 2.0}}
    data = data_of(config.weights)
    if data is None:
        return Suggestions(run=run)
    default = _EACH[data] if config.conditional else (_PROMPTS[data],)
    named = all(VOCABULARY[data].named(prompt) for prompt in prompts or default)
    return Suggestions(
        prompts=default,
        heldout=("class-probability", "clip-score") if named else (),
        rewards={"clip-score": {"model": "small"}, "class-probability": {"model": data}},
        run=run,
    )


@hookimpl
def orwcfm_backbones() -> list[BackboneSpec]:
    """The U-Net."""
    return [
        BackboneSpec(
            name="unet",
            summary="U-Net for 28x28 grey images, pre-trained on Fashion-MNIST and MNIST.",
            config=Config,
            factory="orwcfm_backbone_unet.backbone:UNetBackbone",
            references=(
                "U-Net: Ronneberger et al., 2015, arXiv:1505.04597",
                "Classifier-free guidance: Ho and Salimans, 2022, arXiv:2207.12598",
            ),
            conditional=lambda config: config.conditional,
            suggest=suggest,
            example=Example(prompts=("a boot", "a bag")),
        )
    ]
