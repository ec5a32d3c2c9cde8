"""How commands print their results: aligned text for a person, JSON for a program. Nothing heavy in here."""

from __future__ import annotations

import json
import os
import shutil
import sys
import textwrap
from collections.abc import Sequence
from io import TextIOWrapper
from pathlib import Path
from typing import Any, TextIO

import click

__all__ = [
    "aligned",
    "as_json",
    "check_out",
    "line",
    "print_json",
    "print_result",
    "reserve_stdout",
    "shortened",
    "terminal_width",
    "widths",
]

as_json = click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")

_NARROW = 20
"""Columns below which a last column is not squeezed."""
_STDOUT, _STDERR = 1, 2
_ECHOES_TO = "_default_text_stdout"
"""What click asks for the stream that it echoes to; there is no public way to choose one for a whole program."""

_reserved: TextIOWrapper | None = None
"""Where results go once `reserve_stdout` was called."""


def check_out(out: Path, what: str) -> None:
    """See that a file can be written, better before the work than after it; makes its folder.

    Args:
        out: The file, of option `--out`.
        what: What it will be, for the message.

    Raises:
        UserError: It cannot.
    """
    from orwcfm_core.errors import UserError

    try:
        if out.is_dir():
            raise UserError(f"--out {out}: expected {what}, got a folder")
        out.parent.mkdir(parents=True, exist_ok=True)
    except OSError as e:
        raise UserError(f"--out {out}: cannot make its folder: {e.strerror}") from e
    if not os.access(out.parent, os.W_OK):
        raise UserError(f"--out {out}: its folder cannot be written to")


def reserve_stdout() -> None:
    """From now on, `click.echo` alone writes to standard output; all else that is printed goes to standard error.

    A plugin may print what it likes, in Python, in C or from a process of its own, while it is imported or at exit:
    what a program reads from this one stays valid.
    """
    global _reserved
    printed = sys.stdout
    if printed is not sys.__stdout__ or not hasattr(click.utils, _ECHOES_TO):
        return
    # Where it is closed, there is nothing to keep.
    if not isinstance(printed, TextIOWrapper):
        return
    printed.flush()
    # Not inherited: whoever reads the results does not wait for what a plugin left running.
    _reserved = open(os.dup(_STDOUT), "w", encoding=printed.encoding, errors="backslashreplace")
    _reserved.reconfigure(line_buffering=bool(printed.line_buffering))
    try:
        os.dup2(_STDERR, _STDOUT)
    except OSError:
        # Standard error is closed: nobody wants to see what goes there.
        os.dup2(os.open(os.devnull, os.O_WRONLY), _STDOUT)
    printed.reconfigure(line_buffering=True)
    # sys.stdout stays where plugins print, and they may replace it.
    setattr(click.utils, _ECHOES_TO, _results)


def _results() -> TextIO | None:
    """Where results go; None where standard output is closed."""
    return _reserved or sys.stdout


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
    results = _results()
    if results is None or not results.isatty():
        return None
    columns = os.get_terminal_size(results.fileno()).columns or 80
    # The variable COLUMNS comes before that.
    return shutil.get_terminal_size((columns, 24)).columns


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
