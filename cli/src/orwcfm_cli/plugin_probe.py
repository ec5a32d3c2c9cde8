"""Runs in a process of its own: imports one plugin and reports how that went."""

from __future__ import annotations

import importlib
import sys
import time
from collections.abc import Callable

from orwcfm_core.errors import UserError
from orwcfm_core.heavy import HEAVY
from orwcfm_core.registry import Registry

from orwcfm_cli.child import tell

__all__ = ["main"]


def main() -> None:
    """Import the light module, then the factory, and tell of each."""
    kind, name = sys.argv[2:]
    plugin = Registry().get(kind, name)
    error, seconds = _timed(lambda: plugin.spec)
    tell({"error": error, "seconds": seconds, "heavy": [name for name in HEAVY if name in sys.modules]})
    if error is None:
        # Every run imports this, so it is no cost of the plugin's.
        importlib.import_module("orwcfm_core.trainer")
        error, seconds = _timed(plugin.check)
        tell({"error": error, "seconds": seconds})


def _timed(do: Callable[[], object]) -> tuple[str | None, float]:
    """What went wrong, if anything, and how long it took in seconds."""
    error = None
    start = time.perf_counter()
    try:
        do()
    except UserError as e:
        error = str(e)
    return error, round(time.perf_counter() - start, 4)


if __name__ == "__main__":
    main()
