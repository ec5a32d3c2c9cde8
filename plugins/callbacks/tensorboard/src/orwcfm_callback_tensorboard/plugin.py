"""The callback `tensorboard`, as the registry sees it."""

from __future__ import annotations

from orwcfm_core.plugin import CallbackSpec, ComponentConfig, hookimpl

__all__ = ["Config", "orwcfm_callbacks"]


class Config(ComponentConfig):
    """No options: the log is always in the run's folder."""


@hookimpl
def orwcfm_callbacks() -> list[CallbackSpec]:
    """Logs for TensorBoard."""
    return [
        CallbackSpec(
            name="tensorboard",
            summary="Metrics, pictures and configuration for TensorBoard, in the run's folder.",
            config=Config,
            factory="orwcfm_callback_tensorboard.callback:TensorBoard",
            references=("https://www.tensorflow.org/tensorboard",),
        )
    ]
