"""The trainers `awm`, `nft` and `rvm`, as the registry sees them."""

from __future__ import annotations

from orwcfm_core.config import TrainConfig
from orwcfm_core.plugin import TrainerSpec, hookimpl
from pydantic import Field

__all__ = ["AwmConfig", "NftConfig", "orwcfm_trainers"]


class AwmConfig(TrainConfig):
    """Options of `awm`."""

    clip_range: float = Field(1.0, gt=0, le=100, description="The ratio counts between 1 minus this and 1 plus this.")


class NftConfig(TrainConfig):
    """Options of `nft`."""

    beta: float = Field(1.0, gt=0, le=100, description="Share of the policy in the two implicit policies.")
    self_normalise: bool = Field(
        True, description="Divide each squared error by the size of the error, and measure both at t = 1."
    )


@hookimpl
def orwcfm_trainers() -> list[TrainerSpec]:
    """Methods that learn from signed rewards on the forward process."""
    return [
        TrainerSpec(
            name="awm",
            summary="Advantage-weighted matching: clipped ratios of flow matching losses.",
            config=AwmConfig,
            factory="orwcfm_trainer_forward.awm:Awm",
            references=("Xue et al., Advantage Weighted Matching, 2025, arXiv:2509.25050",),
            run={
                "weighting": {"name": "group-advantage", "tau": 0.2, "clip": 5.0, "spread": "round"},
                "reg": {"name": "w2", "alpha": 0.001, "anchor": "both", "ema_alpha": 0.999},
                "sampler": {"ema": 0.3, "ema_growth": 0.0},
            },
        ),
        TrainerSpec(
            name="nft",
            summary="DiffusionNFT: a positive and a negative branch about the sampling policy.",
            config=NftConfig,
            factory="orwcfm_trainer_forward.nft:Nft",
            references=("Zheng et al., DiffusionNFT, 2025, arXiv:2509.16117",),
            run={
                "weighting": {"name": "group-advantage", "tau": 0.2, "clip": 5.0, "spread": "round"},
                "reg": {"name": "w2", "alpha": 2e-5},
                "sampler": {"ema": 0.5, "ema_growth": 0.0},
            },
        ),
        TrainerSpec(
            name="rvm",
            summary="Reward-based velocity matching: signed regression with a velocity anchor.",
            config=TrainConfig,
            factory="orwcfm_trainer_forward.rvm:Rvm",
            references=("Choi et al., Scaling RL for Diffusion Models via Velocity Matching, 2026, arXiv:2608.23664",),
            run={
                "weighting": {"name": "group-advantage", "tau": 0.1, "clip": 5.0, "spread": "round"},
                "reg": {"name": "w2", "alpha": 1e-3},
                "sampler": {"ema": 0.0},
            },
        ),
    ]
