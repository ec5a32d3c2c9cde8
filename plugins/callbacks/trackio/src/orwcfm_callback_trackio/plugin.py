"""The callback `trackio`, as the registry sees it."""

from __future__ import annotations

from pathlib import Path

from orwcfm_core.plugin import CallbackSpec, ComponentConfig, absolute_path, hookimpl
from pydantic import Field, field_validator

__all__ = ["Config", "orwcfm_callbacks"]


class Config(ComponentConfig):
    """Options."""

    project: str = Field("orwcfm", min_length=1, description="Project of the run.")
    folder: Path | None = Field(
        None, description="Folder of the data, which runs may share; unset: TRACKIO_DIR, else in the run's folder."
    )

    @field_validator("folder")
    @classmethod
    def _from_anywhere(cls, folder: Path | None) -> Path | None:
        return folder and Path(absolute_path(str(folder)))


@hookimpl
def orwcfm_callbacks() -> list[CallbackSpec]:
    """Logs for Trackio."""
    return [
        CallbackSpec(
            name="trackio",
            summary="Metrics, pictures and configuration for Trackio, on this machine.",
            config=Config,
            factory="orwcfm_callback_trackio.callback:Trackio",
            references=("https://huggingface.co/docs/trackio",),
        )
    ]
