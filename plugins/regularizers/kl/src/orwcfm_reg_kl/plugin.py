"""The regularizer `kl`, as the registry sees it."""

from __future__ import annotations

from orwcfm_core.plugin import ComponentConfig, RegularizerSpec, hookimpl
from pydantic import Field

__all__ = ["Config", "orwcfm_regularizers"]


class Config(ComponentConfig):
    """Options of `kl`."""

    alpha: float = Field(0.1, ge=0, le=1e6, description="Strength of the penalty.")
    noise: float = Field(0.7, gt=0, le=100, description="Noise level of the stochastic sampler whose KL it is.")
    t_max: float = Field(
        0.95, gt=0, lt=1, description="Later times count as this one, for the penalty diverges at t = 1."
    )


@hookimpl
def orwcfm_regularizers() -> list[RegularizerSpec]:
    """The KL of the paths."""
    return [
        RegularizerSpec(
            name="kl",
            summary="KL divergence of the paths of the stochastic sampler with the flow's marginals, as in Flow-GRPO.",
            config=Config,
            factory="orwcfm_reg_kl.regularizer:PathKL",
            references=("Liu et al., 2025, arXiv:2505.05470",),
        )
    ]
