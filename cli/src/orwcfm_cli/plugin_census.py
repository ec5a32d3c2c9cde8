"""Runs in a process of its own: imports all plugins and reports how many work."""

from __future__ import annotations

from orwcfm_core.errors import UserError
from orwcfm_core.registry import Registry

from orwcfm_cli.child import tell

__all__ = ["main"]


def main() -> None:
    """Tell how many plugins are fine, broken and switched off."""
    registry = Registry()
    broken = 0
    for plugin in registry.plugins:
        try:
            plugin.check()
        except UserError:
            broken += 1
    tell([len(registry.plugins) - broken, broken, len(registry.switched_off)])


if __name__ == "__main__":
    main()
