"""Finds the plugin whose code raised."""

from __future__ import annotations

import traceback

from orwcfm_core.config import RunConfig

__all__ = ["culprit"]


def culprit(error: BaseException, config: RunConfig) -> str:
    """The plugin whose code was running when an exception was raised.

    Args:
        error: The exception.
        config: The run's configuration.

    Returns:
        The innermost one of those that take part: kind, name, distribution and version; `the run` if none.
    """
    packages = {choice.plugin.spec.factory.partition(":")[0].partition(".")[0]: choice for choice in config.choices}
    for frame, _ in reversed(list(traceback.walk_tb(error.__traceback__))):
        package = str(frame.f_globals.get("__name__", "")).partition(".")[0]
        if package in packages and package != "orwcfm_core":
            return str(packages[package].plugin)
    return "the run"
