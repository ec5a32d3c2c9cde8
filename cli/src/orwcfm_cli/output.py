"""How commands print their results: aligned text for a person, JSON for a program. Nothing heavy in here."""

from __future__ import annotations

import json
import shutil
import sys
import textwrap
from collections.abc import Sequence
from typing import Any

import click

__all__ = ["aligned", "as_json", "line", "print_json", "print_result", "shortened", "terminal_width", "widths"]

as_json = click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")

_NARROW = 20
"""Columns below which a last column is not squeezed."""


def print_json(result: Any) -> None:
    """Print a result for a program."""
    click.echo(json.dumps(result, indent=1))


def print_result(result: dict[str, Any], as_json: bool) -> None:
    """Print a command's result, for a person or for a program."""
    if as_json:
        click.echo(json.dumps(result))
        return
    result = {key: value for key, value in result.items() if not isinstance(value, dict)}
    width = max(len(key) for key in result)
    for key, value in result.items():
        text = f"{value:.4g}" if isinstance(value, float) else "none" if value is None else str(value)
        click.echo(f"{key.replace('_', ' '):<{width}}  {text}")


def terminal_width() -> int | None:
    """Columns of the terminal; None where the output goes to a file or a pipe, which must never be cut."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def widths(rows: Sequence[Sequence[str]]) -> list[int]:
    """The width of each column but the last."""
    return [max(len(row[i]) for row in rows) for i in range(len(rows[0]) - 1)] if rows else []


def line(row: Sequence[str], columns: Sequence[int]) -> str:
    """A row whose cells, all but the last, are filled to the widths of their columns."""
    cells = [cell.ljust(width) for cell, width in zip(row[:-1], columns, strict=True)]
    return "  ".join([*cells, row[-1]]).rstrip()


def aligned(rows: Sequence[Sequence[str]], width: int | None) -> list[str]:
    """A table's lines.

    Args:
        rows: Rows of equally many cells.
        width: Columns of the terminal, to which the last cell of each row is wrapped; None leaves it whole.
    """
    columns = widths(rows)
    indent = sum(columns) + 2 * len(columns)
    lines = []
    for row in rows:
        room = max(width - indent, _NARROW) if width else 0
        first, *more = (textwrap.wrap(row[-1], room) if room else [row[-1]]) or [""]
        lines += [line([*row[:-1], first], columns), *(" " * indent + part for part in more)]
    return lines


def shortened(text: str, room: int | None) -> str:
    """A text that ends in an ellipsis if it takes more than the given columns."""
    return text if room is None or len(text) <= room else text[: max(room - 1, 0)].rstrip() + "…"
