"""What is known of a plugin without building it: for `plugins show` and the pages in docs/plugins. No torch in here."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from orwcfm_core.errors import UserError
from orwcfm_core.plugin import Spec
from orwcfm_core.registry import Plugin, Registry, blame
from orwcfm_core.remote import RemotePlugin
from orwcfm_core.resolve import resolve

from orwcfm_cli.plugin_options import Option, options_of, shown

__all__ = ["SECTIONS", "Page", "describe"]

SECTIONS = {
    "reward": "reward",
    "backbone": "backbone",
    "regularizer": "reg",
    "trainer": "train",
    "callback": "callback",
}
"""Section of the configuration that chooses a component of this kind."""
_FLAGS = {kind: "--trainer" if section == "train" else f"--{section}" for kind, section in SECTIONS.items()}
_SHORT = {"reg.alpha": "--alpha", "train.rounds": "--rounds"}


@dataclass(frozen=True)
class Page:
    """A plugin's page.

    Args:
        kind: Kind of component.
        name: Name on the command line.
        dist: Distribution that brings it.
        version: Its version.
        summary: One line.
        factory: Where its class is.
        api: Number of the contract it was written for.
        declares: What it says of itself, in words.
        references: Papers or pages.
        options: Its options.
        example: A command line.
    """

    kind: str
    name: str
    dist: str
    version: str
    summary: str
    factory: str
    api: int
    declares: Mapping[str, str]
    references: Sequence[str]
    options: Sequence[Option]
    example: str


def describe(plugin: Plugin | RemotePlugin, registry: Registry) -> Page:
    """A plugin's page.

    Raises:
        UserError: Its spec is broken, or its environment cannot be used.
    """
    spec = plugin.spec
    where = {"environment": plugin.python} if isinstance(plugin, RemotePlugin) else {}
    with blame(str(plugin), UserError):
        options = options_of(SECTIONS[plugin.kind], spec.config)
        return Page(
            kind=plugin.kind,
            name=plugin.name,
            dist=plugin.dist,
            version=plugin.version,
            summary=spec.summary,
            factory=spec.factory,
            api=spec.api,
            declares=where | dict(_declarations(spec)),
            references=tuple(spec.references),
            options=options,
            example=_example(plugin, registry),
        )


def _declarations(spec: Spec) -> Iterator[tuple[str, str]]:
    """What a spec says besides what every spec has; functions of the options cannot be said in a word."""
    common = {field.name for field in fields(Spec)}
    for field in fields(spec):
        value = getattr(spec, field.name)
        if field.name in common or (callable(value) and value is field.default) or value == {}:
            continue
        yield field.name.replace("_", " "), "depends on the options" if callable(value) else _in_words(value)


def _in_words(value: Any) -> str:
    match value:
        case bool():
            return "yes" if value else "no"
        case Mapping():
            return ", ".join(f"{s}.{o}={shown(v)}" for s, options in value.items() for o, v in options.items())
        case (None, None):
            return "unbounded"
        case (low, high):
            return f"{'-inf' if low is None else format(low, 'g')} to {'inf' if high is None else format(high, 'g')}"
    return shown(value)


def _example(plugin: Plugin | RemotePlugin, registry: Registry) -> str:
    """A command line with this plugin and, where it needs one, a component that fits it."""
    name = _asked(plugin, registry)
    section, settings = SECTIONS[plugin.kind], dict(_settings(plugin.spec))
    words = ["orwcfm", "run", _FLAGS[plugin.kind], name]
    for option, value in settings.items():
        flag = _SHORT.get(f"{section}.{option}")
        words += [flag, value] if flag else ["--set", f"{section}.{option}={value}"]
    for other in _partners(plugin, registry):
        partner = {SECTIONS[other.kind]: {"name": other.name}} if other else {}
        try:
            config = resolve({section: {"name": name, **settings}, **partner}, registry)
        except UserError:
            continue
        words += [_FLAGS[other.kind], other.name] if other else []
        wanted = config.prompts == ("",) and any(getattr(r.plugin.spec, "reads_prompts", False) for r in config.rewards)
        words += ["--prompt", plugin.spec.example.prompts[0]] if wanted else []
        break
    return shlex.join(words)


def _asked(plugin: Plugin | RemotePlugin, registry: Registry) -> str:
    """What to type to get this plugin and no other."""
    if isinstance(plugin, RemotePlugin):
        return f"{plugin.asked}@{plugin.python}"
    rivals = [p for p in registry.plugins if (p.kind, p.name) == (plugin.kind, plugin.name)]
    return plugin.name if len(rivals) < 2 else f"{plugin.name}@{plugin.dist}"


def _partners(plugin: Plugin | RemotePlugin, registry: Registry) -> list[Plugin | None]:
    """What may go along with a plugin, the best first; None is what a run takes by itself."""
    other_kind = {"reward": "backbone", "backbone": "reward"}.get(plugin.kind)
    others = [p for p in registry.plugins if p.kind == other_kind and _medium(p)]
    fitting = [p for p in others if _medium(p) == _medium(plugin)]
    rest = [p for p in others if p not in fitting]
    return [None, *fitting, *rest] if _medium(plugin) in ("images", None) else [*fitting, None, *rest]


def _medium(plugin: Plugin | RemotePlugin) -> str | None:
    """What a reward accepts or a backbone produces; None of others, and of broken ones."""
    try:
        return getattr(plugin.spec, "accepts", None) or getattr(plugin.spec, "produces", None)
    except UserError:
        return None


def _settings(spec: Spec) -> Iterator[tuple[str, str]]:
    """Options that must be set, and the first number, to show how."""
    numbers = 0
    for name, field in spec.config.model_fields.items():
        if field.is_required():
            yield name, shown(spec.example.options.get(name, name.upper()))
        elif not numbers and isinstance(field.default, int | float) and not isinstance(field.default, bool):
            numbers += 1
            yield name, shown(field.default)
