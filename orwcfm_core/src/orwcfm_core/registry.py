"""Finds plugins through entry points; imports each only when it is asked for, and keeps failures apart."""

from __future__ import annotations

import difflib
import importlib
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import Distribution, EntryPoint, PackageNotFoundError, distributions, version
from typing import Any

import pluggy
from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

from orwcfm_core.errors import RunError, UserError
from orwcfm_core.plugin import (
    API,
    GROUPS,
    BackboneSpec,
    CallbackSpec,
    ComponentConfig,
    Hooks,
    RegularizerSpec,
    RewardSpec,
    Spec,
    TrainerSpec,
)

__all__ = ["ALLOW", "BASES", "STRICT", "Plugin", "Registry", "blame", "imported", "unforeseen", "unmet"]

ALLOW = "ORWCFM_PLUGINS"
"""Environment variable: names of the plugins or distributions that may be used, separated by commas; unset means all,
empty means none. The core's own are always there."""
STRICT = "ORWCFM_STRICT_PLUGINS"
"""Environment variable: at 1, a plugin that is broken ends every command."""

_CORE = "orwcfm-core"

_SPECS: dict[str, type[Spec]] = {
    "reward": RewardSpec,
    "backbone": BackboneSpec,
    "regularizer": RegularizerSpec,
    "trainer": TrainerSpec,
    "callback": CallbackSpec,
}
BASES = {
    "reward": "orwcfm_core.reward:Reward",
    "backbone": "orwcfm_core.backbone:Backbone",
    "regularizer": "orwcfm_core.regularizer:Regularizer",
    "trainer": "orwcfm_core.trainer:Trainer",
}
"""Abstract class of each kind; a callback has none."""


@contextmanager
def blame(what: str, error: type[UserError] | type[RunError]) -> Iterator[None]:
    """Turn whatever a plugin's code raises into one line that names the plugin.

    This is the one place that catches everything: a plugin is somebody else's code, and neither `sys.exit` in it nor
    an exception that is no `Exception`, such as asyncio's cancellation, may end the program without a word.
    """
    try:
        yield
    except (UserError, RunError) as e:
        raise type(e)(f"{what}: {e}") from e
    except (KeyboardInterrupt, GeneratorExit):
        raise
    except BaseException as e:
        reason = " ".join(str(e).split()) or "no message"
        raise error(f"{what}: {type(e).__name__}: {reason}") from e


@contextmanager
def unforeseen(whose: Callable[[BaseException], str]) -> Iterator[None]:
    """Turn what nobody foresaw, in the midst of a run, into one line that names the plugin; the rest passes.

    Args:
        whose: Says which plugin an exception comes from; empty if from none, where files may be the reason.
    """
    try:
        yield
    except (UserError, RunError, KeyboardInterrupt, GeneratorExit):
        raise
    except BaseException as e:
        plugin = whose(e)
        if isinstance(e, OSError) and not plugin:
            raise
        reason = " ".join(str(e).split()) or "no message"
        raise RunError(f"{plugin or 'the run'}: {type(e).__name__}: {reason}") from e


@dataclass(frozen=True)
class Plugin:
    """One entry point: known from metadata alone until its spec is asked for.

    Args:
        kind: One of `GROUPS`.
        entry: The entry point.
    """

    kind: str
    entry: EntryPoint

    @property
    def name(self) -> str:
        """Name on the command line."""
        return self.entry.name

    @cached_property
    def dist(self) -> str:
        """Name of the distribution that brings it; asked anew, its metadata would be parsed anew."""
        return self.entry.dist.name if self.entry.dist else "unknown"

    @cached_property
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
        misfits = unmet(self.entry.dist, only=_CORE) if self.entry.dist else []
        if misfits:
            raise UserError(f"{misfits[0]}; upgrade {self.dist} or {_CORE}")
        module = importlib.import_module(self.entry.module)
        manager = pluggy.PluginManager("orwcfm")
        manager.add_hookspecs(Hooks)
        manager.register(module)
        manager.check_pending()
        returned = getattr(manager.hook, f"orwcfm_{self.kind}s")()
        for specs in returned:
            if not isinstance(specs, list | tuple):
                raise UserError(f"hook orwcfm_{self.kind}s returned a {type(specs).__name__}, expected a list of specs")
        specs = [spec for specs in returned for spec in specs]
        named = [spec for spec in specs if isinstance(spec, _SPECS[self.kind]) and spec.name == self.name]
        if not named:
            found = ", ".join(repr(getattr(spec, "name", spec)) for spec in specs) or "none"
            raise UserError(
                f"hook orwcfm_{self.kind}s returned no {_SPECS[self.kind].__name__} of this name (found: {found})"
            )
        spec = named[0]
        if isinstance(spec.api, int) and spec.api not in (API, API - 1):
            advice = "upgrade orwcfm-core" if spec.api > API else "upgrade the plugin"
            raise UserError(f"was written for plugin API {spec.api}, this core has {API}; {advice}")
        mistakes = spec.mistakes()
        if mistakes:
            raise UserError(f"its {type(spec).__name__} is wrong: {'; '.join(mistakes)}")
        return spec

    def check(self) -> None:
        """Import the factory as well, and see that it is a class of this kind, without building anything.

        Raises:
            UserError: The plugin is broken.
        """
        factory = self.spec.factory
        with blame(str(self), UserError):
            made = imported(factory)
            base = imported(BASES[self.kind]) if self.kind in BASES else object
            if not callable(made) or (isinstance(made, type) and not issubclass(made, base)):
                raise UserError(f"{factory} is not a {base.__name__}")

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
            component = imported(spec.factory)(config)
            if not isinstance(component, base):
                raise UserError(f"{spec.factory} built a {type(component).__name__}, expected a {base.__name__}")
        return component


class Registry:
    """All plugins that are installed; scanning imports none of them.

    Args:
        path: Folders where distributions are looked for; None means `sys.path`.

    Attributes:
        plugins: Those that may be used.
        switched_off: Those that the allow-list leaves out.
        unreadable: Distributions, of whatever project, whose metadata cannot be read; a line for each.

    Raises:
        UserError: `ORWCFM_STRICT_PLUGINS` is set and a plugin is broken; one line for each.
    """

    def __init__(self, path: Sequence[str] | None = None) -> None:
        self.unreadable: list[str] = []
        order = list(GROUPS)
        everything = sorted(self._scan(path), key=lambda p: (order.index(p.kind), p.name, p.dist))
        self.plugins: Sequence[Plugin] = [plugin for plugin in everything if _allowed(plugin)]
        self.switched_off: Sequence[Plugin] = [plugin for plugin in everything if not _allowed(plugin)]
        if os.environ.get(STRICT, "") not in ("", "0"):
            self._insist()

    def get(self, kind: str, name: str) -> Plugin:
        """The plugin of this kind and name.

        Args:
            kind: One of `GROUPS`.
            name: Its name, or `NAME@DIST` where several distributions offer the name.

        Raises:
            UserError: There is none, or more than one.
        """
        wanted, _, dist = name.partition("@")
        candidates = _matching(self.plugins, kind, wanted, dist)
        if len(candidates) == 1:
            return candidates[0]
        if candidates:
            choices = " or ".join(f"{wanted}@{p.dist}" for p in candidates)
            raise UserError(f"{kind} '{wanted}' is offered by several distributions: say {choices}")
        for plugin in _matching(self.switched_off, kind, wanted, dist):
            allowed = os.environ.get(ALLOW, "")
            raise UserError(
                f"{plugin} is switched off: {ALLOW}='{allowed}' does not name it"
                if allowed
                else f"{plugin} is switched off: --no-plugins, or an empty {ALLOW}, allows none"
            )
        others = _matching(self.plugins, kind, wanted, "")
        if dist and others:
            raise UserError(
                f"'{dist}' is neither a distribution that offers {kind} '{wanted}' nor an environment; it comes from "
                f"{', '.join(p.dist for p in others)}"
            )
        names = sorted({p.name for p in self.plugins if p.kind == kind})
        close = difflib.get_close_matches(wanted, names, n=1, cutoff=0.5)
        hint = f"did you mean '{close[0]}'?" if close else f"installed: {', '.join(names) or 'none'}"
        raise UserError(f"unknown {kind} '{name}', {hint}")

    def _scan(self, path: Sequence[str] | None) -> Iterator[Plugin]:
        """All entry points; of a distribution that is installed twice, those of the copy that Python imports."""
        seen = set()
        for dist in distributions() if path is None else distributions(path=list(path)):
            try:
                with blame(f"metadata of {getattr(dist, '_path', 'a distribution')}", UserError):
                    # Reading the name parses all metadata, which is slow: only of those that matter.
                    if "orwcfm." not in (dist.read_text("entry_points.txt") or ""):
                        continue
                    name = canonicalize_name(dist.metadata["Name"] or "")
                    plugins = {(kind, e.name): Plugin(kind, e) for e in dist.entry_points for kind in _kinds(e)}
            except UserError as e:
                self.unreadable.append(str(e))
                continue
            if name and name not in seen:
                seen.add(name)
                yield from plugins.values()

    def _insist(self) -> None:
        errors = []
        for plugin in self.plugins:
            try:
                _ = plugin.spec
            except UserError as e:
                errors.append(str(e))
        if errors:
            raise UserError("\n".join(errors))


def unmet(dist: Distribution, only: str | None = None) -> list[str]:
    """Requirements of a distribution that what is installed does not meet, from metadata alone.

    Args:
        dist: The distribution.
        only: Look at this requirement alone.

    Returns:
        A line for each: `needs X>=2, and 1.0 is installed`.
    """
    lines = []
    for text in dist.requires or []:
        try:
            requirement = Requirement(text)
        except InvalidRequirement:
            lines.append(f"has a requirement that cannot be read, '{text}'")
            continue
        name = canonicalize_name(requirement.name)
        if only not in (None, name) or (requirement.marker and not requirement.marker.evaluate({"extra": ""})):
            continue
        try:
            here = version(name)
        except PackageNotFoundError:
            lines.append(f"needs {name}{requirement.specifier}, which is not installed")
            continue
        if not requirement.specifier.contains(here, prereleases=True):
            lines.append(f"needs {name}{requirement.specifier}, and {here} is installed")
    return lines


def _kinds(entry: EntryPoint) -> list[str]:
    """The kind that an entry point's group stands for, if any."""
    return [kind for kind, group in GROUPS.items() if group == entry.group]


def _allowed(plugin: Plugin) -> bool:
    allowed = os.environ.get(ALLOW)
    if allowed is None or plugin.dist == _CORE:
        return True
    names = {canonicalize_name(name.strip()) for name in allowed.split(",")}
    return not names.isdisjoint({canonicalize_name(plugin.name), canonicalize_name(plugin.dist)})


def _matching(plugins: Sequence[Plugin], kind: str, name: str, dist: str) -> list[Plugin]:
    wanted = canonicalize_name(dist)
    return [p for p in plugins if p.kind == kind and p.name == name and wanted in ("", canonicalize_name(p.dist))]


def imported(path: str) -> Any:
    """What `module:attribute` names."""
    module, _, attribute = path.partition(":")
    return getattr(importlib.import_module(module), attribute)
