"""The report of a sweep: one page that needs nothing but itself and links to its runs' reports."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from html import escape
from importlib.metadata import version
from math import floor, log10
from pathlib import Path
from typing import Any

from orwcfm_cli.charts import MINUS, TONES, Guide, Series, Trail, line_chart, number, spans_decades
from orwcfm_cli.options import flat
from orwcfm_cli.outcomes import Outcome, outcomes_of, winners
from orwcfm_cli.overview import LONGEST, Point, common_reference, cost_plane, headline_without_gain, link, thumbnail
from orwcfm_cli.page import DASH, DOT, duration, fact_list, figure, page, table, write_page, written
from orwcfm_cli.report_verdict import judge
from orwcfm_cli.sweep_folder import SweepFolder
from orwcfm_cli.sweep_grid import SEED, Grid, text_of
from orwcfm_cli.sweep_results import Mean, Row, Setting, mean_of, settings_of

__all__ = ["write_sweep_report"]

PLUS_MINUS = "\N{PLUS-MINUS SIGN}"


def write_sweep_report(folder: SweepFolder, grid: Grid, rows: Sequence[Row]) -> Path:
    """Write `report.html` into a sweep's folder.

    Args:
        folder: The sweep's.
        grid: Its grid.
        rows: Its runs.

    Returns:
        The page.
    """
    target = folder.path / "report.html"
    write_page(target, _Page(folder, grid, rows, target).html())
    return target


class _Page:
    """What the sections of the page share."""

    def __init__(self, folder: SweepFolder, grid: Grid, rows: Sequence[Row], target: Path) -> None:
        self.folder = folder
        self.target = target
        self.rows = rows
        self.names = {option: name for option, name in grid.short.items() if option != SEED}
        self.settings = settings_of(rows)
        self.done = [row for row in rows if row.status == "done" and row.record]
        self.records = [row.record for row in self.done if row.record]
        self.outcomes = outcomes_of(self.records)
        self.gains = [outcome for outcome in self.outcomes if outcome.gain]
        self.reference = common_reference(self.records, self.outcomes)

    def html(self) -> str:
        """The page."""
        name = self.folder.path.resolve().name
        sections = [self._failures(), self._curves(), self._planes(), self._table(), self._pictures(), self._runs()]
        sections.append(self._configuration())
        footer = f"Written by orwcfm {version('orwcfm')} from the sweep {name}."
        return page(f"{name} {DOT} orwcfm sweep", self._header(name), sections, footer)

    def _header(self, name: str) -> str:
        axes = f" {DOT} ".join(f"{short} in {', '.join(self._values(option))}" for option, short in self.names.items())
        seeds = len({row.grid.get(SEED) for row in self.rows})
        total = sum(row.seconds or 0.0 for row in self.rows)
        facts = [
            ("Runs done", f"{len(self.done)} of {len(self.rows)}", self._not_done()),
            ("Settings", number(len(self.settings)), f"{seeds} seed{'' if seeds == 1 else 's'} each"),
            ("Time of all rounds", duration(total), "without start and evaluation"),
        ]
        for outcome in self.gains[:1]:
            start = self._start(outcome)
            facts += (
                [(f"{outcome.name.capitalize()} before", number(start), "the reference")] if start is not None else []
            )
        about = f'<p class="eyebrow"><b>{escape(name)}</b> {DOT} {escape(axes)}</p>'
        return f"{about}\n<h1>{escape(self._headline())}</h1>\n{fact_list(facts)}"

    def _start(self, outcome: Outcome) -> float | None:
        """What the reference has of a measure."""
        return self.reference.baseline(outcome.key) if self.reference and outcome.comparable else None

    def _values(self, option: str) -> list[str]:
        return list(dict.fromkeys(text_of(row.grid[option]) for row in self.rows))

    def _not_done(self) -> str:
        counts = {s: sum(row.status == s for row in self.rows) for s in ("failed", "interrupted", "missing")}
        return ", ".join(f"{count} {status}" for status, count in counts.items() if count)

    def _headline(self) -> str:
        """Which setting gained the most."""
        if not self.gains:
            return headline_without_gain(self.records, self.outcomes)
        outcome = self.gains[0]
        known = [(mean, s) for s in self.settings if (mean := s.mean(outcome.key))]
        best, setting = max(known, key=lambda pair: pair[0].value)
        if len(known) == 1:
            return f"{outcome.name.capitalize()} is {_words(best)}."
        shown, alike = winners([(mean.value, self._said(s)) for mean, s in known])
        if len(alike) == len(known):
            return f"{outcome.name.capitalize()} is the same in all settings that have it, to three digits: {shown}."
        if len(alike) > 1:
            return f"{outcome.name.capitalize()} is highest, {shown}, at {' and at '.join(alike)}."
        return f"{outcome.name.capitalize()} is highest, {_words(best)}, at {self._said(setting)}."

    def _said(self, setting: Setting) -> str:
        return ", ".join(f"{self.names[option]} {text_of(value)}" for option, value in setting.grid.items()) or "all"

    def _failures(self) -> str:
        failed = [row for row in self.rows if row.status == "failed"]
        if not failed:
            return ""
        items = "".join(f"<li><b>{escape(row.name)}</b>: {escape(row.error)}</li>" for row in failed)
        return f'<h2>Failed</h2>\n<div class="why"><ul>{items}</ul></div>'

    def _curves(self) -> str:
        option = self._numeric()
        if option is None or not self.outcomes:
            return ""
        lines: dict[str, list[Setting]] = {}
        for setting in self.settings:
            label = ", ".join(text_of(value) for o, value in setting.grid.items() if o != option)
            lines.setdefault(label, []).append(setting)
        fitting = all(len(label) <= LONGEST for label in lines)
        named = lines if fitting else {str(i + 1): group for i, group in enumerate(lines.values())}
        figures = "".join(self._curve(outcome, option, named) for outcome in self.outcomes)
        others = [short for o, short in self.names.items() if o != option]
        about = f" One line for each {' and '.join(others)}" if others else ""
        about += "" if fitting else ": " + "; ".join(f"{i + 1} is {label}" for i, label in enumerate(lines))
        note = (
            f"Means over seeds; the band is one standard error.{about}{'.' if about else ''} The values of "
            f"{self.names[option]} stand at equal distances."
        )
        title = f"Along {self.names[option]}"
        return f"<h2>{escape(title)}</h2>\n<p class=soft>{escape(note)}</p>\n<div class=charts>{figures}</div>"

    def _numeric(self) -> str | None:
        """The first option whose values are numbers, two or more of them."""
        for option in self.names:
            values = {row.grid[option] for row in self.rows if not isinstance(row.grid[option], list | dict)}
            if len(values) > 1 and all(isinstance(v, int | float) and not isinstance(v, bool) for v in values):
                return option
        return None

    def _curve(self, outcome: Outcome, option: str, lines: Mapping[str, Sequence[Setting]]) -> str:
        places = {value: i for i, value in enumerate(sorted({s.grid[option] for s in self.settings}))}
        series = []
        for i, (label, group) in enumerate(lines.items()):
            known = sorted((places[s.grid[option]], mean) for s in group if (mean := s.mean(outcome.key)))
            if known:
                spread = [mean.error or 0.0 for _, mean in known]
                values = [mean.value for _, mean in known]
                series.append(Series([at for at, _ in known], values, label, TONES[i % len(TONES)], spread, dots=True))
        log = outcome.key == "velocity_divergence" and spans_decades(v for s in series for v in s.y)
        start = self._start(outcome)
        svg = line_chart(
            f"{outcome.name} at each {self.names[option]}",
            series,
            guides=[Guide(start, "reference")] if start is not None else [],
            log=log,
            x_label=self.names[option],
            x_ticks=[(at, text_of(value)) for value, at in places.items()],
            size=(360, max(196, 70 + 13 * len(series))),
        )
        return figure(outcome.name[0].upper() + outcome.name[1:], outcome.meaning, svg)

    def _planes(self) -> str:
        costs = [outcome for outcome in self.outcomes if outcome.cost]
        figures = "".join(self._plane(gain, cost) for gain in self.gains for cost in costs)
        if not figures:
            return ""
        labels = f"labelled by {', '.join(self.names.values())}" if self.names else "all runs"
        note = (
            f"Each circle is a setting, {labels}: the mean over seeds, with a cross of standard errors; pale dots are "
            "single runs. Filled circles on the dashed line are the Pareto front: nothing else is as good in both."
        )
        about = f"<h2>What the gain costs</h2>\n<p class=soft>{escape(note)}</p>"
        return f'{about}\n<div class="charts two">{figures}</div>'

    def _plane(self, gain: Outcome, cost: Outcome) -> str:
        points = []
        for i, setting in enumerate(self.settings):
            runs = [(record.end(cost.key), record.end(gain.key)) for record in setting.done]
            dots = [(a, b) for a, b in runs if a is not None and b is not None]
            x, y = mean_of([a for a, _ in dots]), mean_of([b for _, b in dots])
            if x and y:
                tone = TONES[i % len(TONES)]
                trail = Trail(dots, tone=tone, timeless=True) if len(dots) > 1 else None
                points.append(Point(setting.label, x.value, y.value, tone, (x.error or 0.0, y.error or 0.0), trail))
        return cost_plane(gain, cost, points, self.reference)

    def _table(self) -> str:
        rows = [
            [
                *(escape(text_of(value)) for value in setting.grid.values()),
                f"{len(setting.done)} of {len(setting.rows)}",
                *(_cell(setting.mean(outcome.key), len(setting.done)) for outcome in self.outcomes),
            ]
            for setting in self.settings
        ]
        head = [*self.names.values(), "runs", *(outcome.name for outcome in self.outcomes)]
        if self.reference:
            known = [self._start(outcome) for outcome in self.outcomes]
            blank = [""] * len(self.names)
            start = [DASH if value is None else number(value) for value in known]
            rows.append([*["reference", *blank][: max(1, len(blank))], *([""] if blank else []), *start])
        note = (
            f"Mean {PLUS_MINUS} standard error over seeds, of fresh samples; the velocity divergence is that of the "
            "last rounds."
        )
        return f"<h2>Settings</h2>\n<p class=soft>{note}</p>\n{table(head, rows)}"

    def _pictures(self) -> str:
        figures = "".join(self._picture(row) for row in self.rows if row.record and row.record.pictures)
        if not figures:
            return ""
        note = "The last grid of each run; the same seed has the same noise. Names lead to the runs' reports."
        return f"<h2>Pictures</h2>\n<p class=soft>{note}</p>\n<div class=thumbs>{figures}</div>"

    def _picture(self, row: Row) -> str:
        assert row.record
        return (
            f"<figure>{thumbnail(row.record, f'Samples of {row.name}')}"
            f"<figcaption>{link(self.folder.run(row.name), self.target, row.name)}</figcaption></figure>"
        )

    def _runs(self) -> str:
        rows = [self._run(row) for row in self.rows]
        head = ["run", "status", "verdict", "rounds", "seconds", *(outcome.name for outcome in self.outcomes)]
        return f"<h2>Runs</h2>\n{table(head, rows)}"

    def _run(self, row: Row) -> list[str]:
        record = row.record
        verdict = judge(record).label if record and row.status == "done" else DASH
        ends = [record.end(outcome.key) if record and row.status == "done" else None for outcome in self.outcomes]
        return [
            link(self.folder.run(row.name), self.target, row.name),
            row.status,
            escape(verdict),
            number(row.rounds),
            DASH if row.seconds is None else number(row.seconds),
            *(DASH if value is None else number(value) for value in ends),
        ]

    def _configuration(self) -> str:
        plan = self.folder.read()
        base = "".join(_option(option, value) for option, value in flat(plan.base).items())
        axes = "".join(_option(option, list(values)) for option, values in plan.grid.axes.items())
        again = escape(shlex.join(["orwcfm", "sweep", "--resume", self.folder.path.name]))
        shared = f"<section><h3>Shared</h3><table><tbody>{base}</tbody></table></section>" if base else ""
        return (
            "<h2>Configuration</h2>\n<p class=soft>What was set; each run's report has all of its options. To go on "
            f"with what is missing or failed:</p><pre><code>{again}</code></pre>\n<div class=config>"
            f"<section><h3>Grid</h3><table><tbody>{axes}</tbody></table></section>{shared}</div>"
        )


def _option(name: str, value: Any) -> str:
    return f'<tr><th scope="row">{escape(name)}</th><td>{escape(written(value))}</td></tr>'


def _words(mean: Mean) -> str:
    """A mean and its standard error of two digits, both with as many decimals."""
    if not mean.error or mean.error >= 10:
        return number(mean.value) + (f" {PLUS_MINUS} {number(mean.error)}" if mean.error is not None else "")
    decimals = min(8, 1 - floor(log10(mean.error)))
    return f"{mean.value:.{decimals}f} {PLUS_MINUS} {mean.error:.{decimals}f}".replace("-", MINUS)


def _cell(mean: Mean | None, runs: int) -> str:
    """A mean, and of how many of the runs it is where some have no such measure."""
    if mean is None:
        return DASH
    return _words(mean) + (f" ({mean.count} of {runs})" if mean.count < runs else "")
