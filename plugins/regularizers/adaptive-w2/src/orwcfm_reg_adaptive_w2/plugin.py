"""The regularizer `adaptive-w2`, as the registry sees it."""

from __future__ import annotations

from orwcfm_core.plugin import ComponentConfig, Example, RegularizerSpec, hookimpl
from pydantic import Field, ValidationInfo, field_validator

__all__ = ["Config", "orwcfm_regularizers"]


class Config(ComponentConfig):
    """Options of `adaptive-w2`."""

    alpha: float = Field(1.0, ge=0, le=1e6, description="Strength of the penalty where the weight is 0.")
    sensitivity: float = Field(1.0, ge=0, le=1e6, description="Share of the strength that a weight of 1 takes away.")
    low: float = Field(0.0, ge=-1e6, le=1e6, description="Smallest strength, as a multiple of alpha.")
    high: float = Field(
        5.0, ge=0, le=1e6, validate_default=True, description="Largest strength, as a multiple of alpha."
    )

    @field_validator("high")
    @classmethod
    def _in_order(cls, high: float, others: ValidationInfo) -> float:
        if high < others.data.get("low", high):
            raise ValueError(f"expected at least low = {others.data['low']:g}")
        return high


@hookimpl
def orwcfm_regularizers() -> list[RegularizerSpec]:
    """The regularizer of ADRPO."""
    return [
        RegularizerSpec(
            name="adaptive-w2",
            summary="Mean squared velocity difference, stronger for samples of low advantage and weaker for good ones.",
            config=Config,
            factory="orwcfm_reg_adaptive_w2.regularizer:AdaptiveW2",
            references=("Fan et al., ADRPO, NeurIPS 2025, arXiv:2510.18053",),
            non_negative=False,
            # With a weight of 1 and the default sensitivity there would be nothing to see.
            example=Example(options={"sensitivity": 0.5}),
        )
    ]
