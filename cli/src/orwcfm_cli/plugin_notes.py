"""What there is to say of plugins beyond whether they work, from metadata alone. No torch in here."""

from __future__ import annotations

import os
from importlib.metadata import distributions
from pathlib import Path

from orwcfm_core.registry import ALLOW, Plugin, Registry, unmet
from packaging.utils import canonicalize_name

__all__ = ["idle_entries", "notes"]


def notes(plugin: Plugin, registry: Registry) -> list[str]:
    """Name clashes, a second installation and requirements that are not met; nothing of it breaks the plugin."""
    found = []
    rivals = [p.dist for p in registry.plugins if (p.kind, p.name) == (plugin.kind, plugin.name) and p is not plugin]
    if rivals:
        found.append(f"also offered by {', '.join(rivals)}: say {plugin.name}@{plugin.dist}")
    used, *others = _copies(plugin.dist) or [""]
    if others:
        found.append(f"installed {len(others) + 1} times: {used} is used, not {', '.join(others)}")
    return found + (unmet(plugin.entry.dist) if plugin.entry.dist else [])


def idle_entries(registry: Registry) -> list[str]:
    """Entries of the allow-list that name nothing."""
    entries = [entry.strip() for entry in os.environ.get(ALLOW, "").split(",") if entry.strip()]
    known = {canonicalize_name(name) for p in registry.plugins for name in (p.name, p.dist)}
    return [entry for entry in entries if canonicalize_name(entry) not in known]


def _copies(dist: str) -> list[str]:
    """Version and folder of each installation of a distribution, the one in use first."""
    copies = list(distributions(name=dist))
    # setuptools leaves an egg-info of an editable installation in its source folder, which is no second one.
    real = [c for c in copies if c.read_text("METADATA") is not None or c.version != copies[0].version] or copies[:1]
    return list(dict.fromkeys(f"{copy.version} in {Path(str(copy.locate_file(''))).resolve()}" for copy in real))
