"""Plugins that look installed without being so."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Self

from orwcfm_core.plugin import GROUPS
from orwcfm_core.registry import Registry

__all__ = ["FakeDistribution", "isolated_registry"]


class FakeDistribution:
    """A distribution in a folder of its own, with metadata, entry points and modules.

    In a `with` block it can be imported; a child process finds it with `env()`.

    Args:
        folder: Where to write it; made if need be.
        name: Its name.
        plugins: Entry points by kind and name: `{"reward": {"bright": "bright_plugin"}}`.
        modules: Source by file: `{"bright_plugin.py": "..."}`.
        version: Its version.
        requires: Its requirements, as in a pyproject.toml.
    """

    def __init__(
        self,
        folder: Path,
        name: str,
        plugins: Mapping[str, Mapping[str, str]],
        modules: Mapping[str, str],
        version: str = "1.0",
        requires: Sequence[str] = (),
    ) -> None:
        self.folder = folder
        info = folder / f"{name.replace('-', '_')}-{version}.dist-info"
        info.mkdir(parents=True, exist_ok=True)
        about = [f"Name: {name}", f"Version: {version}", *(f"Requires-Dist: {line}" for line in requires)]
        (info / "METADATA").write_text("\n".join(["Metadata-Version: 2.1", *about, ""]))
        lines = [
            line
            for kind, entries in plugins.items()
            for line in (f"[{GROUPS[kind]}]", *(f"{entry} = {module}" for entry, module in entries.items()))
        ]
        (info / "entry_points.txt").write_text("\n".join([*lines, ""]))
        for file, source in modules.items():
            (folder / file).parent.mkdir(parents=True, exist_ok=True)
            (folder / file).write_text(source)

    def env(self) -> dict[str, str]:
        """Environment variables with which a child process finds it, besides what this process was told to find."""
        return {"PYTHONPATH": os.pathsep.join(filter(None, [str(self.folder), os.environ.get("PYTHONPATH", "")]))}

    def __enter__(self) -> Self:
        sys.path.insert(0, str(self.folder))
        importlib.invalidate_caches()
        return self

    def __exit__(self, *error: object) -> None:
        sys.path.remove(str(self.folder))
        for name, module in list(sys.modules.items()):
            if (getattr(module, "__file__", None) or "").startswith(f"{self.folder}{os.sep}"):
                del sys.modules[name]


def isolated_registry(*sources: FakeDistribution | Path | str) -> Registry:
    """A registry of these distributions and the core alone.

    Args:
        sources: Distributions, or folders where they are looked for.
    """
    folders = [str(source.folder if isinstance(source, FakeDistribution) else source) for source in sources]
    registry = Registry(folders)
    core = [plugin for plugin in Registry().plugins if plugin.dist == "orwcfm-core"]
    registry.plugins = [*(plugin for plugin in registry.plugins if plugin.dist != "orwcfm-core"), *core]
    return registry
