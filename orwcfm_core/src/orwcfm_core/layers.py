"""Lays configurations over each other: a file, then settings, then flags. No torch in here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from orwcfm_core.config import SAMPLERS, TrainConfig
from orwcfm_core.errors import UserError
from orwcfm_core.several import parted

__all__ = ["has_null", "layered"]

_NUMBERS = {"reward": "weight", "reg": "alpha"}
"""What the number of `NAME:NUMBER` sets."""
_SEVERAL = {
    "reward": ("prompt", "combine", "normalise", "window", "on_error", "timeout"),
    "heldout": ("on_error", "timeout"),
    "reg": (),
    "callback": (),
}
"""Sections that may name several components, with the options that are no single one's."""

Table = dict[str, Any]


def layered(file: Mapping[str, Mapping[str, Any]], *line: Mapping[str, Mapping[str, Any]]) -> dict[str, Table]:
    """Lay a command line over a file; later layers win, and options follow the component that they were set for.

    An option in the file of a component that the command line replaces by another goes with it, and those for all
    components of a section go with the last; so any run.toml can be the file, whatever the command line names.

    Args:
        file: Options by section, for the components that the file itself names.
        line: Options by section, for the components that are named in the end.

    Raises:
        UserError: A layer sets an option twice.
    """
    merged = {}
    for section in {section: None for layer in (file, *line) for section in layer}:
        below, above = dict(file.get(section, {})), [dict(layer[section]) for layer in line if section in layer]
        named = [part["name"] for part in above if "name" in part]
        if section in _SEVERAL:
            merged[section] = _several(section, below, above, named[-1] if named else below.get("name"))
        else:
            renamed = bool(named) and "name" in below and below["name"] != named[-1]
            kept = _kept(section, below, str(named[-1])) if renamed else below
            merged[section] = {key: value for part in (kept, *above) for key, value in part.items()}
    return merged


def _kept(section: str, options: Table, name: str) -> Table:
    """What of a section's options holds for another component as well."""
    if section == "train":
        known = TrainConfig.model_fields
    else:
        known = SAMPLERS[name].model_fields if section == "sampler" and name in SAMPLERS else {}
    return {option: value for option, value in options.items() if option in known}


def _several(section: str, below: Table, above: list[Table], names: Any) -> Table:
    """A section that may name several components, with a table of its own for each."""
    final, before = _names(names), _names(below.get("name"))
    merged: Table = {} if names is None else {"name": _without_numbers(section, names)}
    for part, owners in [(below, before or final), *((part, final) for part in above)]:
        replaced = part is below and bool(before) and not set(before) & set(final)
        for name, options in _by_owner(section, part, owners).items():
            if not name and replaced:
                merged |= {key: value for key, value in options.items() if key == "prompt"}
            elif name in ("", *final):
                merged.update(options) if not name else merged.setdefault(name, {}).update(options)
    return merged


def _by_owner(section: str, part: Table, owners: list[str]) -> dict[str, Table]:
    """A layer's options by the component that they are for; the empty name stands for none in particular."""
    names = _names(part.get("name"))
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise UserError("\n".join(f"{section}.name: '{name}' is named twice" for name in twice))
    found: dict[str, Table] = {"": {}}
    pairs: list[tuple[str, str, Any]] = []
    for key, value in part.items():
        if key == "name":
            pairs += [(name, _NUMBERS[section], number) for name, number in _numbers(section, value)]
        elif isinstance(value, Mapping) and key in owners:
            pairs += [(key, option, inner) for option, inner in value.items()]
        elif len(owners) == 1 and owners != ["none"] and key not in _SEVERAL[section]:
            pairs.append((owners[0], key, value))
        else:
            pairs.append(("", key, value))
    for name, option, value in pairs:
        if option in found.setdefault(name, {}):
            label = section if len(owners) == 1 else f"{section}.{name}"
            raise UserError(f"{label}.{option}: is set twice; keep one")
        found[name][option] = value
    return found


def _listed(names: Any) -> list[str]:
    listed = [names] if isinstance(names, str) else names
    return listed if isinstance(listed, list) and all(isinstance(name, str) for name in listed) else []


def _names(names: Any) -> list[str]:
    return [parted(name)[0].partition("@")[0] for name in _listed(names)]


def _numbers(section: str, names: Any) -> list[tuple[str, str]]:
    """Names and numbers of those that bring one."""
    found = [parted(name) for name in _listed(names)] if section in _NUMBERS else []
    return [(name.partition("@")[0], number) for name, number in found if number is not None]


def _without_numbers(section: str, names: Any) -> Any:
    """The names alone; as they are where they are not names at all, for others to complain of."""
    if section not in _NUMBERS or not _listed(names):
        return names
    bare = [parted(name)[0] for name in _listed(names)]
    return bare[0] if isinstance(names, str) else bare


def has_null(value: Any) -> bool:
    """Whether there is a None in a value of JSON's types, which TOML does not have."""
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return value is None or any(map(has_null, inner))
