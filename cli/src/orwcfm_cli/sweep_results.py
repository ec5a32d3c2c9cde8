"""What came out of a sweep: a row per run, and per setting the mean over seeds."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import sqrt
from statistics import fmean, stdev
from typing import Any

from orwcfm_core.config import RunConfig

from orwcfm_cli.atomic import replace_file
from orwcfm_cli.options import flat
from orwcfm_cli.outcomes import outcomes_of
from orwcfm_cli.report_data import RunRecord, read_run
from orwcfm_cli.sweep_folder import SweepFolder
from orwcfm_cli.sweep_grid import SEED, Combination, Grid, text_of

__all__ = ["Mean", "Row", "Setting", "mean_of", "read_rows", "settings_of", "write_results"]


@dataclass(frozen=True)
class Mean:
    """A mean over seeds, its standard error (None of a single one) and their number."""

    value: float
    error: float | None
    count: int


@dataclass(frozen=True)
class Row:
    """A run.

    Args:
        name: Its name.
        grid: The grid's values, as the configuration has them.
        status: `done`, `failed`, `interrupted` or `missing`.
        error: Why it failed; else empty.
        record: What its folder says; None if there is none.
    """

    name: str
    grid: Mapping[str, Any]
    status: str
    error: str
    record: RunRecord | None

    @property
    def seconds(self) -> float | None:
        """Time of its rounds."""
        return sum(v or 0.0 for v in self.record.series("seconds")) if self.record else None

    @property
    def rounds(self) -> int:
        """Rounds done."""
        return len(self.record.rounds) if self.record else 0

    def about(self) -> dict[str, Any]:
        """All of it, for JSON."""
        measured = {} if self.record is None else {"velocity_divergence": self.record.end("velocity_divergence")}
        final = dict(self.record.final) | measured if self.record and self.status == "done" else {}
        return {
            "run": self.name,
            "grid": dict(self.grid),
            "status": self.status,
            "error": self.error,
            "rounds": self.rounds,
            "seconds": self.seconds,
            "final": {key: value for key, value in final.items() if key != "round"},
            "reference": dict(self.record.reference) if self.record else {},
        }


@dataclass(frozen=True)
class Setting:
    """Runs that differ in nothing but the seed.

    Args:
        grid: The grid's other values.
        rows: The runs.
    """

    grid: Mapping[str, Any]
    rows: Sequence[Row]

    @property
    def label(self) -> str:
        """Its values."""
        return ", ".join(text_of(value) for value in self.grid.values()) or "all"

    @property
    def done(self) -> list[RunRecord]:
        """Its runs that are done."""
        return [row.record for row in self.rows if row.record and row.status == "done"]

    def mean(self, key: str) -> Mean | None:
        """A measure at the end of the runs that are done."""
        return mean_of([value for record in self.done if (value := record.end(key)) is not None])


def mean_of(values: Sequence[float]) -> Mean | None:
    """Their mean; None of nothing."""
    if not values:
        return None
    return Mean(fmean(values), stdev(values) / sqrt(len(values)) if len(values) > 1 else None, len(values))


def read_rows(
    folder: SweepFolder, runs: Mapping[str, tuple[Combination, RunConfig]], errors: Mapping[str, str]
) -> list[Row]:
    """How the runs stand.

    Args:
        folder: The sweep's.
        runs: From `resolve_all`.
        errors: Why runs failed, by name.
    """
    rows = []
    for name, (combination, config) in runs.items():
        tables = config.tables()
        status = "failed" if name in errors else folder.status(name)
        record = read_run(folder.run(name)) if (folder.run(name) / "run.toml").is_file() else None
        grid = {option: _resolved(tables, option, value) for option, value in combination.values.items()}
        rows.append(Row(name, grid, status, errors.get(name, ""), record))
    return rows


def settings_of(rows: Sequence[Row]) -> list[Setting]:
    """The runs by all of the grid but the seed, in their order."""
    found: dict[str, list[Row]] = {}
    grids: dict[str, dict[str, Any]] = {}
    for row in rows:
        grid = {option: value for option, value in row.grid.items() if option != SEED}
        key = json.dumps(grid, default=str)
        found.setdefault(key, []).append(row)
        grids[key] = grid
    return [Setting(grids[key], group) for key, group in found.items()]


def write_results(folder: SweepFolder, grid: Grid, rows: Sequence[Row]) -> None:
    """Write results.csv and results.json."""
    measured = outcomes_of([row.record for row in rows if row.record])
    settings = [
        {
            "grid": dict(setting.grid),
            "runs": len(setting.done),
            "measures": {m.key: _about(mean) for m in measured if (mean := setting.mean(m.key))},
        }
        for setting in settings_of(rows)
    ]
    axes = {option: list(values) for option, values in grid.axes.items()}
    content = {"grid": axes, "runs": [row.about() for row in rows], "settings": settings}
    replace_file(folder.path / "results.json", (json.dumps(content, indent=1) + "\n").encode())
    replace_file(folder.path / "results.csv", _csv(rows).encode())


def _about(mean: Mean) -> dict[str, Any]:
    return {"mean": mean.value, "standard_error": mean.error, "runs": mean.count}


def _csv(rows: Sequence[Row]) -> str:
    lines = []
    for row in rows:
        about = row.about()
        grid, final, reference = about.pop("grid"), about.pop("final"), about.pop("reference")
        listed = {option: text_of(value) if isinstance(value, list | dict) else value for option, value in grid.items()}
        numbers = flat(final) | {f"reference_{key}": value for key, value in flat(reference).items()}
        error = about.pop("error")
        lines.append({"run": about.pop("run"), **listed, **about, **numbers, "error": error})
    columns = [column for column in dict.fromkeys(c for line in lines for c in line) if column != "error"]
    text = io.StringIO()
    writer = csv.DictWriter(text, [*columns, "error"], lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return text.getvalue()


def _resolved(tables: Mapping[str, Any], option: str, given: Any) -> Any:
    """What the configuration made of a value; as it was given, where that is not one option any more.

    So it is with names, whose numbers (`w2:0.1`) are options of their own.
    """
    if option.endswith(".name"):
        return given
    found: Any = tables
    for part in option.split("."):
        found = found.get(part) if isinstance(found, Mapping) else None
    return given if found is None else found
