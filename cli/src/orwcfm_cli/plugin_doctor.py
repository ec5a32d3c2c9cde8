"""Examines plugins, each in a process of its own. No torch in here."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from orwcfm_core.registry import STRICT, Plugin, Registry

from orwcfm_cli.child import report_from
from orwcfm_cli.plugin_notes import notes

__all__ = ["Diagnosis", "examine", "examine_all"]

_AT_ONCE = 2
"""More would wait for one another, and their times would say little."""


@dataclass
class Diagnosis:
    """What came of importing a plugin.

    Args:
        light_seconds: Time that its light module took; None if it was not done.
        factory_seconds: Time that its factory took once torch was there; None if it was not done.
        heavy: Heavy packages that the light module brought.
        error: What is broken, in one line; None if nothing is.
        notes: What else is to be said.
    """

    light_seconds: float | None
    factory_seconds: float | None
    heavy: list[str]
    error: str | None
    notes: list[str]

    @property
    def verdict(self) -> str:
        """Everything in one line."""
        if self.error:
            return f"broken: {self.error}"
        return f"warning: {'; '.join(self.notes)}" if self.notes else "ok"


def examine_all(registry: Registry, seconds: float) -> Iterator[Diagnosis]:
    """Import all plugins, two at a time.

    Args:
        registry: Where they are from.
        seconds: Time limit for each.

    Returns:
        A diagnosis for each of `registry.plugins` in its order, as it is known.
    """
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        yield from pool.map(lambda plugin: examine(plugin, registry, seconds), registry.plugins)


def examine(plugin: Plugin, registry: Registry, seconds: float) -> Diagnosis:
    """Import a plugin in a process of its own.

    Args:
        plugin: The plugin.
        registry: Where it is from.
        seconds: Time limit.
    """
    # In strict mode, the other plugins would be imported as well.
    args = [plugin.kind, f"{plugin.name}@{plugin.dist}"]
    reports, ending = report_from("orwcfm_cli.plugin_probe", args, seconds, {STRICT: "0"})
    light, factory = (*reports, {}, {})[:2]
    error = light.get("error") or factory.get("error")
    found = Diagnosis(
        light_seconds=light.get("seconds"),
        factory_seconds=factory.get("seconds"),
        heavy=light.get("heavy", []),
        error=error,
        notes=notes(plugin, registry),
    )
    if found.heavy:
        found.notes.append(f"its light module imports {', '.join(found.heavy)}: leave that to the factory's module")
    if error is None and len(reports) < 2:
        part = ("light module", "factory")[len(reports)]
        found.error = f"{plugin}: its {part} {ending or 'ended the process with exit code 0'}"
    elif error is None and ending:
        found.notes.append(f"once it was imported, the process {ending}")
    return found
