"""A grid of options: what it may be, and which runs it makes."""

from __future__ import annotations

import difflib
import hashlib
import itertools
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from orwcfm_core.config import SECTIONS
from orwcfm_core.errors import UserError
from orwcfm_core.layers import has_null, layered

from orwcfm_cli.options import Tables, flat, put
from orwcfm_cli.run_options import FLAGS

__all__ = ["MOST_RUNS", "SEED", "Combination", "Grid", "text_of"]

SEED = "train.seed"
MOST_RUNS = 10_000
LONGEST = 40
"""Characters of a value in a run's name."""
LONGEST_NAME = 200
"""Bytes of a run's name; file systems allow 255, with what comes after it."""


@dataclass(frozen=True)
class Combination:
    """One run of a grid.

    Args:
        name: Readable, and the same however the grid grows.
        values: What it sets, by option, as it was given.
    """

    name: str
    values: Mapping[str, Any]

    def over(self, base: Tables) -> Tables:
        """The base configuration with these values."""
        tables: Tables = {}
        for option, value in self.values.items():
            put(tables, option, value)
        return layered(base, tables)


@dataclass(frozen=True)
class Grid:
    """All combinations of some options' values.

    Args:
        axes: Values by option, at least one each.

    Raises:
        UserError: There are too many.
    """

    axes: Mapping[str, Sequence[Any]]

    def __post_init__(self) -> None:
        runs = math.prod(len(values) for values in self.axes.values())
        if runs > MOST_RUNS:
            raise UserError(f"--grid: {runs:,} combinations are too many; at most {MOST_RUNS:,}")

    @classmethod
    def parse(cls, texts: Sequence[str]) -> Grid:
        """Read `OPTION=VALUE,VALUE`; the option may be short, as the fixed flags are, and the values a JSON list.

        Raises:
            UserError: A line for every mistake.
        """
        axes: dict[str, list[Any]] = {}
        errors = []
        for text in texts:
            try:
                option, values = _axis(text)
                if option in axes:
                    raise UserError(f"--grid {text}: {option} is there twice; give all of its values at once")
                axes[option] = values
            except UserError as e:
                errors.append(str(e))
        if errors:
            raise UserError("\n".join(errors))
        return cls(axes)

    @classmethod
    def of_table(cls, table: Mapping[str, Any]) -> Grid:
        """Read section `[grid]` of a file: a list of values by option.

        Raises:
            UserError: A line for every mistake.
        """
        lists = flat(table)
        wrong = [
            f"[grid] {option}: expected a list of values, got {v!r}" for option, v in lists.items() if not _list(v)
        ]
        if wrong:
            raise UserError("\n".join(wrong))
        return cls.parse([f"{option}={json.dumps(values)}" for option, values in lists.items()])

    @property
    def short(self) -> dict[str, str]:
        """Options by what they are called in names and on pages: their last word, where that is theirs alone.

        The name of a component goes by the section.
        """
        last = [option.removesuffix(".name").rpartition(".")[2] for option in self.axes]
        return {o: short if last.count(short) == 1 else o for o, short in zip(self.axes, last, strict=True)}

    def combinations(self) -> list[Combination]:
        """All runs, the last option's values varying fastest."""
        short = self.short
        return [
            Combination(
                _fitting(
                    ",".join(f"{short[option]}={_slug(value)}" for option, value in zip(self.axes, values, strict=True))
                ),
                dict(zip(self.axes, values, strict=True)),
            )
            for values in itertools.product(*self.axes.values())
        ]

    def check_line(self, base: Tables, line: Tables) -> None:
        """See that the grid does not set what the command line sets, and that this holds for all components it names.

        Args:
            base: The base configuration: the line over a file.
            line: The line alone.

        Raises:
            UserError: It does; or the base names a component, and the line's options would go with it.
        """
        errors = [
            f"{option}: is set on the command line and in --grid; keep one"
            for option in flat(line)
            if option in self.axes and not option.endswith(".name")
        ]
        for section, options in line.items():
            before = base[section].get("name")
            for name in self.axes.get(f"{section}.name", ()) if before else ():
                over = Combination("", {f"{section}.name": name}).over({section: base[section]})
                held = {option.rpartition(".")[2] for option in flat(over)}
                errors += [
                    f"{option}: is set for '{text_of(before)}', and --grid replaces that by '{text_of(name)}'; put "
                    f"{option} into --grid, or name no {section} beside it"
                    for option in flat({section: options})
                    if option.rpartition(".")[2] not in held and option not in self.axes
                ]
        if errors:
            raise UserError("\n".join(dict.fromkeys(errors)))

    def grown(self, other: Grid) -> Grid:
        """This grid with another's values added.

        Raises:
            UserError: It is over other options.
        """
        if set(self.axes) != set(other.axes):
            raise UserError(
                f"--grid: this sweep is over {', '.join(self.axes)}, not over {', '.join(other.axes)}; "
                "use another --out for another grid"
            )
        return Grid({o: [*values, *(v for v in other.axes[o] if v not in values)] for o, values in self.axes.items()})


def text_of(value: Any) -> str:
    """A value as it is written."""
    if isinstance(value, float):
        return f"{value:.12g}"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _axis(text: str) -> tuple[str, list[Any]]:
    name, equals, listed = text.partition("=")
    if not equals or not name or not listed:
        raise UserError(f"--grid {text}: expected OPTION=VALUE,VALUE, as in --grid reg.alpha=0,0.1,1")
    option = FLAGS.get(name.replace("-", "_"), name)
    parts = option.split(".")
    if len(parts) not in (2, 3) or parts[0] not in SECTIONS or not all(parts):
        close = difflib.get_close_matches(parts[0], [*FLAGS, *SECTIONS], n=1, cutoff=0.5)
        hint = f", did you mean '{close[0]}'?" if close else ""
        raise UserError(f"--grid {text}: '{name}' is neither SECTION.OPTION nor {', '.join(FLAGS)}{hint}")
    values = _json(text, listed) if listed.startswith("[") else [part.strip() for part in listed.split(",")]
    if not values or "" in values:
        raise UserError(f"--grid {text}: there is an empty value")
    twice = sorted({text_of(value) for value in values if values.count(value) > 1})
    if twice:
        raise UserError(f"--grid {text}: {', '.join(twice)} is there twice")
    return option, values


def _list(value: Any) -> bool:
    """Whether a value of a file is a list that JSON can write, which has no dates."""
    try:
        json.dumps(value)
    except TypeError:
        return False
    return isinstance(value, list)


def _json(text: str, listed: str) -> list[Any]:
    try:
        values = json.loads(listed)
    except ValueError as e:
        raise UserError(f"--grid {text}: values that start with '[' must be a JSON list: {e}") from e
    if has_null(values):
        raise UserError(f"--grid {text}: null cannot be written to a configuration; leave it out")
    return list(values)


def _slug(value: Any) -> str:
    """A value within a file's name; what had to be changed gets a fingerprint."""
    text = text_of(value) if isinstance(value, str | float) else json.dumps(value)
    slug = re.sub(r"[^\w.+-]+", "-", text)[:LONGEST]
    return slug if slug == text else f"{slug}~{_fingerprint(text)}"


def _fitting(name: str) -> str:
    """A run's name, cut to what the name of a file may have."""
    encoded = name.encode()
    if len(encoded) <= LONGEST_NAME:
        return name
    fingerprint = f"~{_fingerprint(name)}"
    return encoded[: LONGEST_NAME - len(fingerprint)].decode(errors="ignore") + fingerprint


def _fingerprint(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:6]
