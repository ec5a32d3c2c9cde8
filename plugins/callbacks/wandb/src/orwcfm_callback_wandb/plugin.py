"""The callback `wandb`, as the registry sees it."""

from __future__ import annotations

from typing import Literal

from orwcfm_core.plugin import CallbackSpec, ComponentConfig, hookimpl
from pydantic import Field

__all__ = ["Config", "orwcfm_callbacks"]


class Config(ComponentConfig):
    """Options."""

    mode: Literal["offline", "online", "disabled"] = Field(
        "offline", description="offline: into the run's folder; online: to the service as well; disabled: nothing."
    )
    project: str = Field("orwcfm", min_length=1, description="Project of the run.")


@hookimpl
def orwcfm_callbacks() -> list[CallbackSpec]:
    """Logs for Weights & Biases."""
    return [
        CallbackSpec(
            name="wandb",
            summary="Metrics, pictures and configuration for Weights & Biases; offline unless asked otherwise.",
            config=Config,
            factory="orwcfm_callback_wandb.callback:Wandb",
            references=("https://docs.wandb.ai",),
        )
    ]
