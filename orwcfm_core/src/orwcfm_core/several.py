"""Shares a section's options out among the components that it names. No torch in here."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

__all__ = ["Asked", "parted", "share_out"]


@dataclass(frozen=True)
class Asked:
    """A component that a section names, with the options that the section sets for it.

    Args:
        text: `NAME`, or `NAME@WHERE` with a distribution or an environment.
        label: How its options are written: `reward`, or `reward.clip-score` where there are several.
        options: Its options, not checked yet.
    """

    text: str
    label: str
    options: Mapping[str, Any]

    @property
    def name(self) -> str:
        """Its name alone."""
        return self.text.partition("@")[0]


def share_out(section: str, table: Mapping[str, Any], names: Any, number: str | None) -> tuple[list[Asked], list[str]]:
    """Read which components a section names, and share its options out among them.

    A name may bring a number, `w2:0.1`. Where there is one component, `section.option` sets its options, and
    `section.name.option` does so as well; where there are several, only the latter.

    Args:
        section: For messages.
        table: The section's options, without `name`.
        names: One name or a list of them.
        number: The option that the number of `NAME:NUMBER` sets; None if there is no such form here.

    Returns:
        The components, and what is wrong, a line each.
    """
    given = [names] if isinstance(names, str) else names
    if not isinstance(given, list | tuple) or not given or not all(isinstance(name, str) and name for name in given):
        return [], [f"{section}.name: expected a name or a list of names, got {names!r}"]
    parts = [parted(text) if number else (text, None) for text in given]
    asked = [text.partition("@")[0] for text, _ in parts]
    if "none" in asked and len(asked) > 1 and section != "reg":
        return [], [f"{section}.name: 'none' stands alone, or not at all"]
    twice = sorted({name for name in asked if asked.count(name) > 1})
    if twice:
        return [], [f"{section}.name: '{name}' is named twice" for name in twice]
    own = {name: dict(table[name]) if isinstance(table.get(name), Mapping) else {} for name in asked}
    rest = {key: value for key, value in table.items() if not (key in own and isinstance(value, Mapping))}
    errors = _strays(section, rest, asked) if len(asked) > 1 else []
    found = []
    for (text, value), name in zip(parts, asked, strict=True):
        sources = [own[name], {} if len(asked) > 1 else rest, {} if value is None or not number else {number: value}]
        label = f"{section}.{name}" if len(asked) > 1 else section
        errors += [f"{label}.{option}: is set twice; keep one" for option in _repeated(sources)]
        found.append(Asked(text, label, {key: v for source in sources for key, v in source.items()}))
    return found, errors


def parted(text: str) -> tuple[str, str | None]:
    """`NAME:NUMBER` as name and number; a colon within the path of an environment stays where it is.

    Args:
        text: A name, perhaps with a number.
    """
    name, colon, number = text.rpartition(":")
    _, at, where = text.partition("@")
    within_path = "/" in number or (at and os.path.exists(os.path.expanduser(where)))
    return (name, number) if colon and not within_path else (text, None)


def _strays(section: str, options: Collection[str], names: list[str]) -> list[str]:
    """Options of nobody in particular, where there are several components."""
    places = " or ".join(f"{section}.{name}" for name in names)
    return [f"{section}.{option}: there are several here; say {places} in place of {section}" for option in options]


def _repeated(sources: list[dict[str, Any]]) -> list[str]:
    keys = [key for source in sources for key in source]
    return sorted({key for key in keys if keys.count(key) > 1})
