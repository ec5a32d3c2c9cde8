"""Parts of pages about several runs: their curves' colours, planes with the Pareto front, thumbnails, options."""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from math import isclose
from pathlib import Path
from typing import Any
from urllib.parse import quote

from orwcfm_cli.charts import Guide, Mark, Trail, plane, spans_decades
from orwcfm_cli.options import flat
from orwcfm_cli.outcomes import COSTS, Outcome, front
from orwcfm_cli.page import ARROW, figure, image
from orwcfm_cli.report_data import RunRecord

__all__ = [
    "LONGEST",
    "Point",
    "common_reference",
    "cost_plane",
    "differences",
    "headline_without_gain",
    "link",
    "satisfying_guide",
    "thumbnail",
]

LONGEST = 18
"""Characters of a name that still fit beside its curve."""
SIDE = 264
"""Width of a thumbnail in pixels."""
ROUNDING = 1e-3
"""Relative difference of measures of the same model on other processors."""
TINY = 1e-6
"""What such a measure may be where it is 0."""


@dataclass(frozen=True)
class Point:
    """A run or a setting at its end.

    Args:
        label: Short.
        x: What it cost.
        y: What it gained.
        tone: Colour.
        spread: Standard errors in x and y.
        trail: How it got there, or the single runs behind it.
    """

    label: str
    x: float
    y: float
    tone: str = "a"
    spread: tuple[float, float] = (0.0, 0.0)
    trail: Trail | None = None


def cost_plane(gain: Outcome, cost: Outcome, points: Sequence[Point], reference: RunRecord | None) -> str:
    """A figure of what is gained against what it costs, with the Pareto front; empty for fewer than two points."""
    if len(points) < 2:
        return ""
    best = front([(p.x, p.y) for p in points], COSTS[cost.key])
    marks = [Mark(p.x, p.y, p.label, "front" if i in best else "point", p.tone, p.spread) for i, p in enumerate(points)]
    start = (reference.baseline(cost.key), reference.baseline(gain.key)) if reference else (None, None)
    start = (0.0, start[1]) if cost.key == "velocity_divergence" else start
    log = cost.key == "velocity_divergence" and spans_decades(p.x for p in points)
    if start[0] is not None and start[1] is not None and not log:
        marks.append(Mark(start[0], start[1], "reference", "reference"))
    trails = [p.trail for p in points if p.trail]
    trails.append(Trail([], line=[(points[i].x, points[i].y) for i in best], tone="front"))
    name = f"{gain.name} against {cost.name}"
    name = name[0].upper() + name[1:]
    x_label = f"{cost.name}{', log scale' if log else ''} {ARROW}"
    guides = satisfying_guide(reference) if cost.key == "satisfying_diversity" else []
    svg = plane(
        name, trails, x_label=x_label, y_label=gain.name, marks=marks, guides=guides, log_x=log, size=(440, 330)
    )
    return figure(name, "", svg)


def common_reference(records: Sequence[RunRecord], outcomes: Sequence[Outcome]) -> RunRecord | None:
    """A run whose reference is that of all, but for rounding; None if they have several, or there is no run."""

    def alike(record: RunRecord, outcome: Outcome) -> bool:
        first, own = records[0].baseline(outcome.key), record.baseline(outcome.key)
        return first == own if first is None or own is None else isclose(first, own, rel_tol=ROUNDING, abs_tol=TINY)

    same = all(alike(record, outcome) for record in records for outcome in outcomes if outcome.comparable)
    return records[0] if records and same else None


def headline_without_gain(records: Sequence[RunRecord], outcomes: Sequence[Outcome]) -> str:
    """A headline for runs of which none can be said to have gained the most."""
    if not any(record.rounds for record in records):
        return "No run is done yet."
    return (
        "No score is known." if all(o.comparable for o in outcomes) else "The scores of these runs cannot be compared."
    )


def satisfying_guide(reference: RunRecord | None) -> list[Guide]:
    """What an ideal run keeps of diversity."""
    ideal = reference.baseline("satisfying_diversity") if reference else None
    return [Guide(ideal, "reference")] if ideal is not None else []


def thumbnail(record: RunRecord, alt: str) -> str:
    """The last grid of a run, made small; empty if there is none."""
    if not record.pictures:
        return ""
    from PIL import Image

    last = record.result or record.pictures[-1]
    with Image.open(last.file) as opened:
        small = opened.convert("L" if opened.mode in ("1", "L") else "RGB")
    small.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    small.save(buffer, format="PNG", optimize=True)
    return image(buffer.getvalue(), small.size, alt)


def link(run: Path, page: Path, text: str) -> str:
    """A run's name, as a link from a page to its report if it has one."""
    report = run / "report.html"
    # A long name breaks between its options.
    name = escape(text).replace(",", ",<wbr>")
    if not report.is_file():
        return name
    # One by one: commas and equals signs of a run's name stay readable.
    target = quote(os.path.relpath(report.resolve(), page.resolve().parent), safe="/,=+~", errors="surrogateescape")
    return f'<a href="{escape(target)}">{name}</a>'


def differences(records: Sequence[RunRecord]) -> dict[str, list[Any]]:
    """The options that are not the same in all runs, with their values; None where a run has no such option."""
    tables = [flat(record.options) for record in records]
    keys = dict.fromkeys(key for table in tables for key in table)
    values = {key: [table.get(key) for table in tables] for key in keys}
    return {key: found for key, found in values.items() if any(value != found[0] for value in found)}
