"""What becomes of an exception that nobody foresaw: one line, with the plugin whose code raised it."""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from contextlib import contextmanager

from orwcfm_core.config import RunConfig
from orwcfm_core.memory import explained
from orwcfm_core.registry import unforeseen

__all__ = ["culprit", "guarded"]


@contextmanager
def guarded(config: RunConfig, larger: str = "train.samples, train.draws or train.eval_samples") -> Iterator[None]:
    """Turn what nobody foresaw into one line: what to do where memory is wanting, else whose code it came from.

    Args:
        config: The run's configuration.
        larger: Options that memory grows with.

    Raises:
        RunError: There was something.
    """
    with unforeseen(lambda e: culprit(e, config)), explained(larger):
        yield


def culprit(error: BaseException, config: RunConfig) -> str:
    """The plugin whose code was running when an exception was raised.

    Args:
        error: The exception.
        config: The run's configuration.

    Returns:
        The innermost one of those that take part: kind, name, distribution and version; empty if none.
    """
    modules: dict[str, list[str]] = {}
    packages: dict[str, list[str]] = {}
    for plugin, factory in {str(choice.plugin): choice.plugin.spec.factory for choice in config.choices}.items():
        module = factory.partition(":")[0]
        modules.setdefault(module, []).append(plugin)
        packages.setdefault(module.partition(".")[0], []).append(plugin)
    for frame, _ in reversed(list(traceback.walk_tb(error.__traceback__))):
        module = str(frame.f_globals.get("__name__", ""))
        # What several of them share says nothing: whoever called it does.
        of = modules.get(module) or packages.get(module.partition(".")[0], [])
        if len(of) == 1 and not module.startswith("orwcfm_core."):
            return of[0]
    return ""
