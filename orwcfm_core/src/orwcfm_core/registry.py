"""Finds plugins through entry points; imports each only when it is asked for, and keeps failures apart."""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import EntryPoint, entry_points
from typing import Any

import pluggy

from orwcfm_core.errors import RunError, UserError
from orwcfm_core.plugin import (
    API,
    GROUPS,
    BackboneSpec,
    ComponentConfig,
    Hooks,
    RegularizerSpec,
    RewardSpec,
    Spec,
    TrainerSpec,
)

__all__ = ["Plugin", "Registry", "blame"]

_SPECS: dict[str, type[Spec]] = {
    "reward": RewardSpec,
    "backbone": BackboneSpec,
    "regularizer": RegularizerSpec,
    "trainer": TrainerSpec,
}


@contextmanager
def blame(what: str, error: type[UserError] | type[RunError]) -> Iterator[None]:
    """Turn whatever a plugin's code raises into one line that names the plugin.

    This is the one place that catches everything: a plugin is somebody else's code, and even `sys.exit` in it must
    not end the program without a word.
    """
    try:
        yield
    except (UserError, RunError) as e:
        raise type(e)(f"{what}: {e}") from e
    except (Exception, SystemExit) as e:
        reason = " ".join(str(e).split()) or "no message"
        raise error(f"{what}: {type(e).__name__}: {reason}") from e


@dataclass(frozen=True)
class Plugin:
    """One entry point: known from metadata alone until its spec is asked for.

    Args:
        kind: `reward`, `backbone`, `regularizer` or `trainer`.
        entry: The entry point.
    """

    kind: str
    entry: EntryPoint

    @property
    def name(self) -> str:
        """Name on the command line."""
        return self.entry.name

    @property
    def dist(self) -> str:
        """Name of the distribution that brings it."""
        return self.entry.dist.name if self.entry.dist else "unknown"

    @property
    def version(self) -> str:
        """Version of that distribution."""
        return self.entry.dist.version if self.entry.dist else "unknown"

    def __str__(self) -> str:
        return f"{self.kind} '{self.name}' of {self.dist} {self.version}"

    @cached_property
    def spec(self) -> Spec:
        """Import the light module and return its spec of this name.

        Raises:
            UserError: The module cannot be imported, or does not keep to the contract.
        """
        with blame(str(self), UserError):
            return self._checked_spec()

    def _checked_spec(self) -> Spec:
        module = importlib.import_module(self.entry.module)
        manager = pluggy.PluginManager("orwcfm")
        manager.add_hookspecs(Hooks)
        manager.register(module)
        manager.check_pending()
        returned = getattr(manager.hook, f"orwcfm_{self.kind}s")()
        specs = [spec for specs in returned if isinstance(specs, list | tuple) for spec in specs]
        named = [spec for spec in specs if isinstance(spec, _SPECS[self.kind]) and spec.name == self.name]
        if not named:
            found = ", ".join(repr(getattr(spec, "name", spec)) for spec in specs) or "none"
            raise UserError(
                f"hook orwcfm_{self.kind}s returned no {_SPECS[self.kind].__name__} of this name (found: {found})"
            )
        spec = named[0]
        if spec.api not in (API, API - 1):
            advice = "upgrade orwcfm-core" if spec.api > API else "upgrade the plugin"
            raise UserError(f"was written for plugin API {spec.api}, this core has {API}; {advice}")
        return spec

    def build(self, config: ComponentConfig, base: type) -> Any:
        """Import the factory and call it with the config.

        Args:
            config: The component's options, an instance of `spec.config`.
            base: Abstract class that the result must be an instance of.

        Raises:
            UserError: The factory cannot be imported, raises, or builds something else.
        """
        spec = self.spec
        with blame(str(self), UserError):
            module, _, attribute = spec.factory.partition(":")
            component = getattr(importlib.import_module(module), attribute)(config)
            if not isinstance(component, base):
                raise UserError(f"{spec.factory} built a {type(component).__name__}, expected a {base.__name__}")
        return component


class Registry:
    """All plugins that are installed; scanning imports none of them."""

    def __init__(self) -> None:
        # An editable install beside a wheel of the same distribution shows up twice: count it once.
        seen = {
            (kind, entry.name, entry.dist.name if entry.dist else ""): Plugin(kind, entry)
            for kind, group in GROUPS.items()
            for entry in entry_points(group=group)
        }
        self.plugins: Sequence[Plugin] = sorted(seen.values(), key=lambda p: (list(GROUPS).index(p.kind), p.name))

    def get(self, kind: str, name: str) -> Plugin:
        """The plugin of this kind and name.

        Args:
            kind: `reward`, `backbone`, `regularizer` or `trainer`.
            name: Its name, or `NAME@DIST` where several distributions offer the name.

        Raises:
            UserError: There is none, or more than one.
        """
        wanted, _, dist = name.partition("@")
        candidates = [p for p in self.plugins if p.kind == kind and p.name == wanted and dist in ("", p.dist)]
        if len(candidates) == 1:
            return candidates[0]
        if candidates:
            choices = " or ".join(f"{wanted}@{p.dist}" for p in candidates)
            raise UserError(f"{kind} '{wanted}' is offered by several distributions: say {choices}")
        names = sorted({p.name for p in self.plugins if p.kind == kind})
        close = difflib.get_close_matches(wanted, names, n=1, cutoff=0.5)
        hint = f"did you mean '{close[0]}'?" if close else f"installed: {', '.join(names) or 'none'}"
        raise UserError(f"unknown {kind} '{name}', {hint}")
