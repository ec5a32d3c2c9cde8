"""Tables in pages of docs, between marks that name them."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

__all__ = ["DOCS", "IMAGES", "row", "write"]

DOCS = Path(__file__).parents[1] / "docs"
IMAGES = DOCS / "images"


def row(*cells: object) -> str:
    """A row of a table."""
    return f"| {' | '.join(map(str, cells))} |"


def write(page: Path, name: str, lines: Iterable[str]) -> None:
    """Print a table, and put it into the page between its marks.

    Args:
        page: With `<!-- name -->` and `<!-- end -->`.
        name: The table's.
        lines: Its rows, the head first.
    """
    head, *rest = lines
    text = "\n".join([head, "|---" * (head.count("|") - 1) + "|", *rest])
    print(f"{name}\n\n{text}\n", flush=True)
    marks = re.compile(rf"(<!-- {name} -->\n).*?(<!-- end -->)", re.DOTALL)
    page.write_text(marks.sub(lambda found: f"{found[1]}\n{text}\n{found[2]}", page.read_text()))
