"""The regularizer `w2`, as the registry sees it."""

from __future__ import annotations

from orwcfm_core.plugin import ComponentConfig, RegularizerSpec, hookimpl
from pydantic import Field

__all__ = ["Config", "orwcfm_regularizers"]


class Config(ComponentConfig):
    """Options of `w2`."""

    alpha: float = Field(0.1, ge=0, le=1e6, description="Strength of the penalty.")


@hookimpl
def orwcfm_regularizers() -> list[RegularizerSpec]:
    """The regularizer of the paper."""
    return [
        RegularizerSpec(
            name="w2",
            summary="Mean squared velocity difference, which bounds the Wasserstein-2 distance to the reference.",
            config=Config,
            factory="orwcfm_reg_w2.regularizer:W2",
            references=("Fan et al., ICLR 2025, arXiv:2502.06061, eq. 10",),
        )
    ]
