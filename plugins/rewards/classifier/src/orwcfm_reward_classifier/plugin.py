"""The reward `class-probability`, as the registry sees it."""

from __future__ import annotations

from typing import Any

from orwcfm_core.plugin import ComponentConfig, Example, RewardSpec, absolute_path, hookimpl
from pydantic import Field, ValidationInfo, field_validator

from orwcfm_reward_classifier.vocabulary import VOCABULARIES, known_names

__all__ = ["Config", "orwcfm_rewards"]


class Config(ComponentConfig):
    """Options of `class-probability`."""

    model: str = Field("fashion", description="fashion, mnist, or the path of a classifier's .safetensors file.")
    labels: tuple[str, ...] | None = Field(
        None,
        description="Classes or groups whose probability counts, as a list or separated by commas; unset: those that "
        "the sample's prompt names.",
    )

    @field_validator("model")
    @classmethod
    def _known_model(cls, model: str) -> str:
        if model in VOCABULARIES:
            return model
        if not model.endswith(".safetensors"):
            raise ValueError(f"expected {', '.join(VOCABULARIES)} or the path of a .safetensors file")
        return absolute_path(model)

    @field_validator("labels", mode="before")
    @classmethod
    def _split(cls, labels: Any) -> Any:
        parts = labels.split(",") if isinstance(labels, str) else labels
        if not isinstance(parts, list | tuple):
            return parts
        return tuple(str(part).strip() for part in parts)

    @field_validator("labels")
    @classmethod
    def _known_labels(cls, labels: tuple[str, ...] | None, info: ValidationInfo) -> tuple[str, ...] | None:
        if labels == () or labels == ("",):
            raise ValueError("expected at least one class or group; leave it out to take those that the prompt names")
        model = str(info.data.get("model"))
        # The classes of a file are known when it is read.
        if labels is not None and model in VOCABULARIES:
            unknown = [label for label in labels if label not in VOCABULARIES[model]]
            if unknown:
                names = ", ".join(repr(label) for label in unknown)
                raise ValueError(f"{names} is no class of {model} (known: {known_names(model)})")
        return labels


@hookimpl
def orwcfm_rewards() -> list[RewardSpec]:
    """The probability of classes."""
    return [
        RewardSpec(
            name="class-probability",
            summary="Probability of chosen classes under a small classifier of clothing or digits.",
            config=Config,
            factory="orwcfm_reward_classifier.reward:ClassProbability",
            references=(
                "Fan et al., ICLR 2025, arXiv:2502.06061 (its target image generation)",
                "Xiao et al., Fashion-MNIST, 2017, arXiv:1708.07747",
            ),
            value_range=(0.0, 1.0),
            probability=True,
            differentiable=True,
            ignores_prompt=lambda config: config.labels is not None,
            example=Example(shape=(1, 28, 28), prompts=("a boot", "a bag")),
        )
    ]
