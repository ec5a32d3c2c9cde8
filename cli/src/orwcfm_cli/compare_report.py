"""Several runs side by side: one page that needs nothing but itself."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape
from importlib.metadata import version
from pathlib import Path
from typing import Any

from orwcfm_core.errors import UserError

from orwcfm_cli.charts import TONES, Guide, Series, Trail, line_chart, number, spans_decades
from orwcfm_cli.outcomes import COSTS, Outcome, front, outcomes_of, winners
from orwcfm_cli.overview import (
    LONGEST,
    Point,
    common_reference,
    cost_plane,
    differences,
    headline_without_gain,
    link,
    thumbnail,
)
from orwcfm_cli.page import ARROW, DASH, DOT, figure, page, table, write_page, written
from orwcfm_cli.report_data import RunRecord, read_run, running_mean
from orwcfm_cli.report_verdict import judge
from orwcfm_cli.sweep_folder import SweepFolder, is_sweep

__all__ = ["Comparison", "Entry", "find_runs", "write_comparison"]

MOST_OPTIONS = 6
"""Options that differ and are listed in a terminal."""


@dataclass(frozen=True)
class Entry:
    """A run that is compared.

    Args:
        path: Its folder.
        label: Its name, no other's.
        tag: What it is called in charts.
        tone: Its colour.
        record: What its folder says.
    """

    path: Path
    label: str
    tag: str
    tone: str
    record: RunRecord


def find_runs(paths: Sequence[Path]) -> list[Entry]:
    """Runs and all runs of sweeps, in the order in which they are named.

    Raises:
        UserError: Something is neither, or there are fewer than two.
    """
    found = {run.resolve(): run for path in paths for run in _runs_in(path)}
    if len(found) < 2:
        raise UserError(f"expected at least two runs to compare, found {len(found)}")
    names = [path.name for path in found]
    labels = [name if names.count(name) == 1 else str(run) for name, run in zip(names, found.values(), strict=True)]
    short = len(found) <= len(TONES) and all(len(label) <= LONGEST for label in labels)
    return [
        Entry(run, label, label if short else str(i + 1), TONES[i % len(TONES)], read_run(run))
        for i, (run, label) in enumerate(zip(found.values(), labels, strict=True))
    ]


def _runs_in(path: Path) -> Iterator[Path]:
    if (path / "run.toml").is_file():
        yield path
    elif is_sweep(path):
        sweep = SweepFolder(path)
        runs = (sweep.run(combination.name) for combination in sweep.read().grid.combinations())
        yield from (run for run in runs if (run / "run.toml").is_file())
    else:
        raise UserError(f"{path} is neither a run folder nor a sweep: it has no run.toml and no sweep.toml")


class Comparison:
    """What can be said of several runs.

    Args:
        entries: At least two.
    """

    def __init__(self, entries: Sequence[Entry]) -> None:
        self.entries = entries
        self.records = [entry.record for entry in entries]
        self.outcomes = outcomes_of(self.records)
        self.gains = [outcome for outcome in self.outcomes if outcome.gain]
        self.costs = [outcome for outcome in self.outcomes if outcome.cost]
        self.differences = differences(self.records)
        self.reference = common_reference(self.records, self.outcomes)

    def ends(self, gain: Outcome, cost: Outcome) -> list[tuple[Entry, float, float]]:
        """The runs that have both measures, with cost and gain at their ends."""
        known = [(entry, entry.record.end(cost.key), entry.record.end(gain.key)) for entry in self.entries]
        return [(entry, x, y) for entry, x, y in known if x is not None and y is not None]

    def front(self, gain: Outcome, cost: Outcome) -> list[str]:
        """Names of the runs on the Pareto front."""
        ends = self.ends(gain, cost)
        return [ends[i][0].label for i in front([(x, y) for _, x, y in ends], COSTS[cost.key])]

    def rows(self) -> list[list[str]]:
        """A table for a terminal: each measure at the end, and the options that differ if they are few."""
        options = list(self.differences) if len(self.differences) <= MOST_OPTIONS else []
        rows = [["run", "rounds", *(outcome.name for outcome in self.outcomes), *options]]
        for i, entry in enumerate(self.entries):
            ends = [entry.record.end(outcome.key) for outcome in self.outcomes]
            values = [_option(self.differences[option][i]) for option in options]
            numbers = ["none" if value is None else f"{value:.4g}" for value in ends]
            rows.append([entry.label, _rounds(entry.record), *numbers, *values])
        return rows

    def notes(self) -> list[str]:
        """What a reader of the table should know."""
        return [f"{o.name}: {o.meaning}" for o in self.outcomes if not o.comparable]

    def about(self) -> dict[str, Any]:
        """All of it, for JSON."""
        keys = [outcome.key for outcome in self.outcomes]
        runs = [
            {
                "run": str(entry.path),
                "name": entry.label,
                "rounds": len(entry.record.rounds),
                "done": bool(entry.record.final),
                "start": {key: entry.record.start(key) for key in keys},
                "end": {key: entry.record.end(key) for key in keys},
                "options": {option: values[i] for option, values in self.differences.items()},
            }
            for i, entry in enumerate(self.entries)
        ]
        fronts = [
            {"gain": gain.key, "cost": cost.key, "runs": self.front(gain, cost)}
            for gain in self.gains
            for cost in self.costs
        ]
        return {
            "runs": runs,
            "fronts": fronts,
            "comparable": {outcome.key: outcome.comparable for outcome in self.outcomes},
        }


def _rounds(run: RunRecord) -> str:
    """The rounds that are done, and of how many where it is not."""
    done = len(run.rounds)
    return str(done) if run.final or done >= run.planned else f"{done}/{run.planned}"


def write_comparison(comparison: Comparison, target: Path) -> None:
    """Write the page."""
    sections = [
        _summary(comparison, target),
        _curves(comparison),
        _planes(comparison),
        _differences(comparison),
        _pictures(comparison, target),
    ]
    header = (
        f'<p class="eyebrow"><b>Comparison</b> {DOT} {len(comparison.entries)} runs</p>\n'
        f"<h1>{escape(_headline(comparison))}</h1>"
    )
    footer = f"Written by orwcfm {version('orwcfm')} from {len(comparison.entries)} run folders."
    html = page(f"{len(comparison.entries)} runs {DOT} orwcfm comparison", header, sections, footer)
    write_page(target, html)


def _headline(comparison: Comparison) -> str:
    for outcome in comparison.gains:
        known = [(end, e.label) for e in comparison.entries if (end := e.record.end(outcome.key)) is not None]
        shown, best = winners(known)
        if len(known) == 1:
            return f"{outcome.name.capitalize()} is {shown} in {best[0]}, the only run that has it."
        if len(best) == len(known):
            return f"{outcome.name.capitalize()} is the same in all runs that have it, to three digits: {shown}."
        return f"{outcome.name.capitalize()} is highest in {' and '.join(best)}: {shown}."
    return headline_without_gain(comparison.records, comparison.outcomes)


def _named(entry: Entry, target: Path | None = None) -> str:
    """A run's colour, what it is called in charts, and its name, as a link if a page to link from is given."""
    tag = "" if entry.tag == entry.label else f"<b>{entry.tag}</b> "
    name = link(entry.path, target, entry.label) if target else escape(entry.label)
    return f'<span class="tone {entry.tone}"></span>{tag}{name}'


def _summary(comparison: Comparison, target: Path) -> str:
    rows = []
    for entry in comparison.entries:
        record = entry.record
        pairs = [(record.start(outcome.key), record.end(outcome.key)) for outcome in comparison.outcomes]
        cells = [DASH if end is None else f"{_number(start)} {ARROW} {number(end)}" for start, end in pairs]
        rows.append([_named(entry, target), escape(judge(record).label), number(len(record.rounds)), *cells])
    note = (
        "Start is the reference where it was measured, else the first round; end is of fresh samples, or the mean of "
        "the last rounds."
    )
    head = ["run", "verdict", "rounds", *(outcome.name for outcome in comparison.outcomes)]
    return f"<h2>Start and end</h2>\n<p class=soft>{note}</p>\n{table(head, rows)}"


def _number(value: float | None) -> str:
    return DASH if value is None else number(value)


def _curves(comparison: Comparison) -> str:
    figures = "".join(_curve(comparison, outcome) for outcome in comparison.outcomes)
    if not figures:
        return ""
    tags = "" if comparison.entries[0].tag == comparison.entries[0].label else " Numbers are those of the table above."
    return (
        f"<h2>Over the rounds</h2>\n<p class=soft>Running means over neighbouring rounds, one line per run.{tags}</p>\n"
        f'<div class="charts two">{figures}</div>'
    )


def _curve(comparison: Comparison, outcome: Outcome) -> str:
    lines = []
    for entry in comparison.entries:
        known = _smooth(entry.record, outcome.key)
        if known:
            lines.append(Series(list(known), list(known.values()), entry.tag, entry.tone))
    if not lines:
        return ""
    start = comparison.reference.baseline(outcome.key) if comparison.reference and outcome.comparable else None
    svg = line_chart(
        f"{outcome.name} over the rounds",
        lines,
        guides=[Guide(start, "reference")] if start is not None else [],
        log=outcome.key == "velocity_divergence" and spans_decades(v for line in lines for v in line.y),
        size=(440, max(240, 60 + 13 * len(lines))),
    )
    return figure(outcome.name[0].upper() + outcome.name[1:], outcome.meaning, svg)


def _smooth(record: RunRecord, key: str) -> dict[float, float]:
    """A metric's running mean by round."""
    known = [(n, v) for n, v in zip(record.numbers, record.series(key), strict=True) if v is not None]
    return dict(zip((n for n, _ in known), running_mean([v for _, v in known], len(known) // 20), strict=True))


def _planes(comparison: Comparison) -> str:
    figures = "".join(_plane(comparison, gain, cost) for gain in comparison.gains for cost in comparison.costs)
    if not figures:
        return ""
    ways = ", each pale line its way there" if len(comparison.entries) <= len(TONES) else ""
    note = (
        f"Each circle is the end of a run{ways}. Filled circles on the dashed line are the Pareto front: no other run "
        "is as good in both."
    )
    return f'<h2>What the gain costs</h2>\n<p class=soft>{note}</p>\n<div class="charts two">{figures}</div>'


def _plane(comparison: Comparison, gain: Outcome, cost: Outcome) -> str:
    points = []
    for entry, x, y in comparison.ends(gain, cost):
        across, up = (_smooth(entry.record, outcome.key) for outcome in (cost, gain))
        way = [(across[n], up[n]) for n in across if n in up]
        trail = Trail([], line=[*way, (x, y)], tone=entry.tone) if len(comparison.entries) <= len(TONES) else None
        points.append(Point(entry.tag, x, y, entry.tone, trail=trail))
    return cost_plane(gain, cost, points, comparison.reference)


def _differences(comparison: Comparison) -> str:
    title = "<h2>What differs</h2>\n"
    if not comparison.differences:
        return f"{title}<p class=soft>All options are the same in all runs.</p>"
    rows = [
        [_named(entry), *(escape(_option(values[i])) for values in comparison.differences.values())]
        for i, entry in enumerate(comparison.entries)
    ]
    note = "Only the options that are not the same in all runs."
    return f"{title}<p class=soft>{note}</p>\n{table(['run', *comparison.differences], rows, 'numbers words')}"


def _option(value: Any) -> str:
    return DASH if value is None else written(value)


def _pictures(comparison: Comparison, target: Path) -> str:
    figures = "".join(
        f"<figure>{thumbnail(entry.record, f'Samples of {entry.label}')}"
        f"<figcaption>{_named(entry, target)}</figcaption></figure>"
        for entry in comparison.entries
        if entry.record.pictures
    )
    note = "<p class=soft>The last grid of each run.</p>"
    return f"<h2>Pictures</h2>\n{note}\n<div class=thumbs>{figures}</div>" if figures else ""
