"""What all pages are made of: one self-contained HTML file in one style, which works without JavaScript."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from html import escape
from importlib.resources import files
from pathlib import Path
from typing import Any

from orwcfm_cli.atomic import replace_file

__all__ = ["ARROW", "DASH", "DOT", "duration", "fact_list", "figure", "image", "page", "table", "write_page", "written"]

DASH = "\N{EM DASH}"
ARROW = "\N{RIGHTWARDS ARROW}"
DOT = "\N{MIDDLE DOT}"
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'"


def page(title: str, header: str, sections: Sequence[str], footer: str, script: str = "") -> str:
    """A page.

    Args:
        title: Of the window; text.
        header: HTML.
        sections: HTML; empty ones are left out.
        footer: Text.
        script: JavaScript that it can do without.
    """
    style = files("orwcfm_cli").joinpath("report.css").read_text("utf-8")
    code = f"<script>{script}</script>\n" if script else ""
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<meta name="color-scheme" content="light dark">\n<title>{escape(title)}</title>\n'
        f"<style>{style}</style>\n</head>\n<body>\n<header>\n{header}\n</header>\n<main>\n"
        + "\n".join(section for section in sections if section)
        + f"\n</main>\n<footer>{escape(footer)}</footer>\n{code}</body>\n</html>\n"
    )


def fact_list(facts: Sequence[tuple[str, str, str]]) -> str:
    """The few numbers that matter: names, values and notes."""
    return f'<dl class="facts">{"".join(_fact(*fact) for fact in facts)}</dl>'


def _fact(name: str, value: str, note: str) -> str:
    small = f"<small>{escape(note)}</small>" if note else ""
    return f"<div><dt>{escape(name)}</dt><dd>{escape(value)}{small}</dd></div>"


def figure(name: str, meaning: str, svg: str) -> str:
    """A chart with a heading."""
    return f"<figure><figcaption><h3>{escape(name)}</h3>{escape(meaning)}</figcaption>{svg}</figure>"


def image(png: bytes, size: tuple[int, int], alt: str) -> str:
    """A picture that is part of the page, of a width and a height in pixels."""
    data = base64.b64encode(png).decode()
    return f'<img src="data:image/png;base64,{data}" width="{size[0]}" height="{size[1]}" alt="{escape(alt)}">'


def write_page(target: Path, html: str) -> None:
    """Write a page as a whole or not at all; what is no text, as names of folders may be, is written by its numbers."""
    replace_file(target, html.encode(errors="backslashreplace"))


def table(head: Sequence[str], rows: Sequence[Sequence[str]], style: str = "numbers") -> str:
    """A table whose first column names the rows; where it is too wide, it scrolls.

    Args:
        head: Text of the column heads.
        rows: HTML of the cells.
        style: Of the table.
    """
    top = "".join(f'<th scope="col">{escape(name)}</th>' for name in head)
    body = "".join(
        f'<tr><th scope="row">{row[0]}</th>' + "".join(f"<td>{cell}</td>" for cell in row[1:]) + "</tr>" for row in rows
    )
    return (
        f'<div class="wide" tabindex="0"><table class="{style}"><thead><tr>{top}</tr></thead><tbody>{body}</tbody>'
        "</table></div>"
    )


def duration(seconds: float) -> str:
    """A time for people."""
    hours, rest = divmod(round(seconds), 3600)
    if hours:
        return f"{hours} h {rest // 60} min"
    return f"{rest // 60} min {rest % 60} s" if rest >= 60 else f"{seconds:.1f} s"


def written(value: Any) -> str:
    """An option's value as one writes it."""
    if isinstance(value, str):
        return value or '""'
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list):
        return ", ".join(written(item) for item in value) or "[]"
    return json.dumps(value, default=str) if isinstance(value, Mapping) else str(value)
