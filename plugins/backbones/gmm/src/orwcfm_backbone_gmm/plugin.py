"""What the `gmm` backbone and the `component` reward offer; light, no torch."""

from __future__ import annotations

from typing import Annotated, Any

from orwcfm_core.plugin import BackboneSpec, ComponentConfig, Example, RewardSpec, Suggestions, hookimpl
from pydantic import Field, FiniteFloat, ValidationInfo, field_validator

__all__ = ["ComponentRewardConfig", "Geometry", "GmmConfig", "orwcfm_backbones", "orwcfm_rewards"]


class Geometry(ComponentConfig):
    """Where the means of the mixture are."""

    dim: int = Field(2, ge=1, le=64, description="Dimensions of a point.")
    components: int = Field(
        8, ge=2, le=64, description="Gaussians: on a circle in the first two dimensions, on a line if there is one."
    )
    radius: float = Field(4.0, gt=0, le=100, description="Radius of the circle, or half the length of the line.")


class GmmConfig(Geometry):
    """Options of the `gmm` backbone."""

    std: float = Field(0.5, ge=0.01, le=10, description="Standard deviation of every Gaussian.")
    width: int = Field(64, ge=1, le=1024, description="Width of the trainable network's two hidden layers.")


class ComponentRewardConfig(Geometry):
    """Options of the `component` reward; the backbone fills in the geometry."""

    values: Annotated[tuple[FiniteFloat, ...], Field(min_length=1)] = Field(
        (1.0, 0.5), validate_default=True, description="Scores of the first components; the others score 0."
    )

    @field_validator("values", mode="before")
    @classmethod
    def _split(cls, values: Any) -> Any:
        return values.split(",") if isinstance(values, str) else values

    @field_validator("values")
    @classmethod
    def _no_more_than_components(cls, values: tuple[float, ...], others: ValidationInfo) -> tuple[float, ...]:
        components = others.data.get("components", len(values))
        if len(values) > components:
            raise ValueError(f"expected at most one for each of {components} components")
        return values


def _suggest(config: GmmConfig, prompts: tuple[str, ...]) -> Suggestions:
    geometry = {name: getattr(config, name) for name in Geometry.model_fields}
    return Suggestions(reward="component", rewards={"component": geometry})


@hookimpl
def orwcfm_backbones() -> list[BackboneSpec]:
    """The mixture."""
    return [
        BackboneSpec(
            name="gmm",
            summary="Gaussian mixture with its exact velocity field; results can be checked against theory.",
            config=GmmConfig,
            factory="orwcfm_backbone_gmm.backbone:GmmBackbone",
            references=("Lipman et al., Flow Matching for Generative Modeling, 2023, arXiv:2210.02747",),
            produces="points",
            suggest=_suggest,
        )
    ]


@hookimpl
def orwcfm_rewards() -> list[RewardSpec]:
    """The reward of the mixture's components."""
    return [
        RewardSpec(
            name="component",
            summary="A value for each component of the gmm backbone; a point scores its nearest component's.",
            config=ComponentRewardConfig,
            factory="orwcfm_backbone_gmm.component:ComponentReward",
            accepts="points",
            example=Example(shape=(2,)),
            reads_prompts=False,
        )
    ]
