"""The trainer `flow-grpo`, as the registry sees it."""

from __future__ import annotations

from orwcfm_core.config import TrainConfig
from orwcfm_core.plugin import TrainerSpec, hookimpl
from pydantic import Field

__all__ = ["Config", "orwcfm_trainers"]


class Config(TrainConfig):
    """Options of `flow-grpo`."""

    noise: float = Field(0.7, gt=0, le=100, description="Noise level of the stochastic sampler.")
    clip_range: float = Field(
        1e-3, gt=0, le=1, description="The ratio counts between 1 minus this and 1 plus this; a mean over dimensions."
    )


@hookimpl
def orwcfm_trainers() -> list[TrainerSpec]:
    """Policy gradients on stochastic paths."""
    return [
        TrainerSpec(
            name="flow-grpo",
            summary="Flow-GRPO: stochastic sampling, and clipped likelihood ratios of its steps.",
            config=Config,
            factory="orwcfm_trainer_flow_grpo.trainer:FlowGrpo",
            references=("Liu et al., Flow-GRPO, 2025, arXiv:2505.05470",),
            run={
                "weighting": {"name": "group-advantage", "tau": 1.0, "clip": 5.0, "spread": "prompt"},
                "reg": {"name": "kl", "alpha": 0.004, "noise": 0.7},
                "sampler": {"name": "euler", "shift": 3.0, "ema": 0.0},
            },
        )
    ]
