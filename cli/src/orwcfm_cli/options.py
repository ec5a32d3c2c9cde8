"""From files, settings and flags to tables of options, and back to TOML."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import tomli_w
from orwcfm_core.errors import UserError
from orwcfm_core.layers import has_null, layered

__all__ = ["PRESETS", "Tables", "check_preset", "flat", "merge", "put", "read_toml", "to_toml"]

Tables = dict[str, dict[str, Any]]

OWN = "orw-cfm"
PRESETS: Mapping[str, Path | None] = {"balanced": None, "paper": Path(__file__).with_name("presets") / "paper.toml"}
"""Files of options for trainer `OWN`, by name; `balanced` is what every option is by itself."""


def merge(config: Path | None, settings: Sequence[str], fixed: Mapping[str, Any], preset: str | None = None) -> Tables:
    """Merge options; later ones win: preset, file, settings, fixed flags.

    Args:
        config: TOML file.
        settings: `section.option=value` or `section.component.option=value`; the value is JSON if it starts with `[`
            or `{`, else a string.
        fixed: Values by `section.option`.
        preset: One of `PRESETS`.

    Raises:
        UserError: The file cannot be read, a setting is malformed, or the preset is for another trainer.
    """
    file = read_toml(config) if config else {}
    for written_by_a_run in ("versions", "notes"):
        file.pop(written_by_a_run, None)
    set_tables: Tables = {}
    for setting in settings:
        key, equals, value = setting.partition("=")
        if not equals or len(key.split(".")) not in (2, 3) or not all(key.split(".")):
            raise UserError(f"--set {setting}: expected SECTION.OPTION=VALUE, as in --set train.rounds=10")
        put(set_tables, key, _decode(setting, value))
    flags: Tables = {}
    for key, value in fixed.items():
        put(flags, key, value)
    chosen = PRESETS[preset or "balanced"]
    tables = layered(layered(read_toml(chosen), file) if chosen else file, set_tables, flags)
    check_preset(preset, [tables.get("train", {}).get("name", OWN)])
    return tables


def check_preset(preset: str | None, trainers: Sequence[str]) -> None:
    """See that a preset is for these trainers.

    Raises:
        UserError: It is for another.
    """
    other = next((trainer for trainer in trainers if trainer != OWN), None)
    if PRESETS[preset or "balanced"] and other:
        raise UserError(
            f"--preset {preset}: its settings are those of trainer {OWN}, got {other}; leave one of them out"
        )


def read_toml(path: Path) -> Tables:
    """Read sections of options.

    Raises:
        UserError: The file cannot be read, is no TOML, or has options outside sections.
    """
    try:
        tables = tomllib.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as e:
        raise UserError(f"cannot read configuration {path}: {e}") from e
    for section, table in tables.items():
        if not isinstance(table, dict):
            raise UserError(f"{path}: {section}: expected a section of options, as in [train], got {table!r}")
    return tables


def to_toml(tables: Mapping[str, Mapping[str, Any]]) -> str:
    """Write sections of options."""
    return tomli_w.dumps(tables)


def flat(tables: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    """Nested tables as one, by names with dots."""
    found: dict[str, Any] = {}
    for key, value in tables.items():
        found |= flat(value, f"{before}{key}.") if isinstance(value, Mapping) else {f"{before}{key}": value}
    return found


def put(tables: Tables, key: str, value: Any) -> None:
    """Set an option, `section.option` or `section.component.option`, in place.

    Raises:
        UserError: What should be a table is a value.
    """
    *sections, option = key.split(".")
    table: dict[str, Any] = tables
    for section in sections:
        inner = table.setdefault(section, {})
        if not isinstance(inner, dict):
            raise UserError(f"{key}: '{section}' is set to {inner!r} already, and cannot have options of its own")
        table = inner
    table[option] = value


def _decode(setting: str, value: str) -> Any:
    if not value.startswith(("[", "{")):
        return value
    try:
        decoded = json.loads(value)
    except (ValueError, RecursionError) as e:
        raise UserError(f"--set {setting}: a value that starts with '{value[0]}' must be JSON: {e}") from e
    if has_null(decoded):
        raise UserError(f"--set {setting}: null cannot be written to a configuration; leave it out")
    return decoded
