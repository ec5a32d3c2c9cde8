"""The trainers `rwr`, `raft` and `reft`, as the registry sees them."""

from __future__ import annotations

from orwcfm_core.config import TrainConfig
from orwcfm_core.plugin import TrainerSpec, absolute_path, hookimpl
from pydantic import Field, field_validator

__all__ = ["OfflineConfig", "orwcfm_trainers"]


class OfflineConfig(TrainConfig):
    """Options of a method that learns from a fixed set of samples."""

    data: str | None = Field(
        None,
        description="What to learn from: a folder of pictures, or a .npy file of samples (N, *); unset: samples of the "
        "reference.",
    )
    data_samples: int = Field(2048, ge=2, le=1_000_000, description="Samples that are drawn once from the reference.")
    watch: int = Field(
        64, ge=2, le=1_000_000, description="Samples of the policy that a round is measured on, not learned from."
    )

    @field_validator("data")
    @classmethod
    def _from_anywhere(cls, data: str | None) -> str | None:
        return data and absolute_path(data)


_TOP_K = {"name": "top-k", "fraction": 0.25}
_FREE = {"name": "w2", "alpha": 0.0}


@hookimpl
def orwcfm_trainers() -> list[TrainerSpec]:
    """Methods that regress on samples of positive weight."""
    return [
        TrainerSpec(
            name="rwr",
            summary="Offline reward-weighted regression: samples drawn once from the reference, weighted once.",
            config=OfflineConfig,
            factory="orwcfm_trainer_weighted.offline:Rwr",
            references=(
                "Lee et al., Aligning Text-to-Image Models using Human Feedback, 2023, arXiv:2302.12192",
                "RW-CFM: Fan et al., ICLR 2025, arXiv:2502.06061",
            ),
            run={"weighting": {"name": "exp"}, "reg": _FREE},
        ),
        TrainerSpec(
            name="raft",
            summary="Reward-ranked fine-tuning: each round regresses on the best of the policy's own samples.",
            config=TrainConfig,
            factory="orwcfm_trainer_weighted.raft:Raft",
            references=("Dong et al., RAFT, 2023, arXiv:2304.06767",),
            run={"weighting": _TOP_K, "reg": _FREE, "sampler": {"ema": 0.0}},
        ),
        TrainerSpec(
            name="reft",
            summary="Reinforced fine-tuning: regression on a fixed set, filtered to its best samples.",
            config=OfflineConfig,
            factory="orwcfm_trainer_weighted.offline:Reft",
            references=("Huguet et al., FoldFlow-2, NeurIPS 2024, arXiv:2405.20313",),
            run={"weighting": _TOP_K, "reg": _FREE},
        ),
    ]
