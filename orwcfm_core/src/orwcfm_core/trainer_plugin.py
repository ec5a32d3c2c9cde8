"""The trainer that comes with the core, as a plugin like any other."""

from __future__ import annotations

from orwcfm_core.config import OrwCfmConfig
from orwcfm_core.plugin import TrainerSpec, hookimpl


@hookimpl
def orwcfm_trainers() -> list[TrainerSpec]:
    """The method of the paper."""
    return [
        TrainerSpec(
            name="orw-cfm",
            summary="Online reward-weighted conditional flow matching; with the w2 regularizer, ORW-CFM-W2.",
            config=OrwCfmConfig,
            factory="orwcfm_core.orw_cfm:OrwCfm",
            references=("Fan et al., ICLR 2025, arXiv:2502.06061",),
            run={
                "reg": {"name": "w2", "anchor": "both"},
                "sampler": {"ema": 0.5, "ema_growth": 0.1},
            },
        )
    ]
