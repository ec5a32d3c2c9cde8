"""The files of a sweep: what it is, its runs and how they stand."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orwcfm_core.config import RunConfig
from orwcfm_core.errors import UserError
from orwcfm_core.registry import Registry
from orwcfm_core.resolve import resolve

from orwcfm_cli.atomic import replace_file
from orwcfm_cli.lock import lock
from orwcfm_cli.options import Tables, read_toml, to_toml
from orwcfm_cli.sweep_grid import Combination, Grid

__all__ = ["Plan", "SweepFolder", "is_sweep", "resolve_all"]

FILE = "sweep.toml"


@dataclass(frozen=True)
class Plan:
    """What a sweep does.

    Args:
        base: Options that all runs share, as they were given.
        grid: Options that differ.
        threads: Of each run's process. Part of the plan, for a run's last bits depend on it.
    """

    base: Tables
    grid: Grid
    threads: int


@dataclass(frozen=True)
class SweepFolder:
    """A sweep's folder: sweep.toml, configs/, runs/, logs/, results, report.html (docs/sweep.md).

    Args:
        path: Where it is.
    """

    path: Path

    def read(self) -> Plan:
        """What `write` wrote.

        Raises:
            UserError: It is no sweep, or was changed to something else.
        """
        if not is_sweep(self.path):
            raise UserError(f"{self.path} is not a sweep: it has no {FILE}")
        tables = read_toml(self.path / FILE)
        base, grid, threads = tables.get("base", {}), tables.get("grid", {}), tables.get("sweep", {}).get("threads")
        lists = all("." in option and isinstance(values, list) and values for option, values in grid.items())
        sections = all(isinstance(table, dict) for table in base.values())
        if not (grid and lists and sections and isinstance(threads, int)):
            raise UserError(
                f"{self.path / FILE} is damaged: expected threads in [sweep], lists by SECTION.OPTION in [grid], and "
                "sections in [base]"
            )
        return Plan(base, Grid(grid), threads)

    def write(self, plan: Plan) -> None:
        """Write sweep.toml."""
        grid = {option: list(values) for option, values in plan.grid.axes.items()}
        text = to_toml({"sweep": {"threads": plan.threads}, "grid": grid, "base": plan.base})
        replace_file(self.path / FILE, text.encode())

    def run(self, name: str) -> Path:
        """Folder of a run."""
        return self.path / "runs" / name

    def config(self, name: str) -> Path:
        """Configuration of a run, as it was checked."""
        return self.path / "configs" / f"{name}.toml"

    def log(self, name: str) -> Path:
        """What a run last said."""
        return self.path / "logs" / f"{name}.log"

    def status(self, name: str) -> str:
        """`done`, `interrupted` (it can go on) or `missing`."""
        run = self.run(name)
        if (run / "final.json").is_file():
            return "done"
        return "interrupted" if any((run / "checkpoints").glob("round_*/manifest.json")) else "missing"

    def rounds_done(self, name: str) -> int:
        """Rounds that a run's metrics tell of."""
        file = self.run(name) / "metrics.jsonl"
        return file.read_bytes().count(b"\n") if file.is_file() else 0

    def in_use(self, name: str) -> bool:
        """Whether a process that an earlier call left behind still works on a run."""
        if not self.run(name).is_dir():
            return False
        try:
            with lock(self.run(name)):
                return False
        except UserError:
            return True

    def clear(self, name: str) -> None:
        """Remove what is left of a run that ended before its first checkpoint."""
        if self.status(name) == "missing":
            shutil.rmtree(self.run(name), ignore_errors=True)


def is_sweep(path: Path) -> bool:
    """Whether a folder is a sweep's."""
    return (path / FILE).is_file()


def resolve_all(plan: Plan) -> dict[str, tuple[Combination, RunConfig]]:
    """Check every combination, by name.

    Raises:
        UserError: A line for every mistake, with the first combination that makes it.
    """
    registry = Registry()
    found: dict[str, tuple[Combination, RunConfig]] = {}
    errors: dict[str, list[str]] = {}
    for combination in plan.grid.combinations():
        try:
            found[combination.name] = (combination, resolve(combination.over(plan.base), registry))
        except UserError as e:
            for line in str(e).splitlines():
                errors.setdefault(line, []).append(combination.name)
    if errors:
        total = len(plan.grid.combinations())
        raise UserError("\n".join(f"{line}{_where(names, total)}" for line, names in errors.items()))
    _distinct({name: config.tables() for name, (_, config) in found.items()})
    return found


def _where(names: Sequence[str], total: int) -> str:
    if len(names) == total:
        return ""
    more = f" and {len(names) - 1} more" if len(names) > 1 else ""
    return f" (in {names[0]}{more})"


def _distinct(tables: Mapping[str, Mapping[str, Any]]) -> None:
    seen: dict[str, str] = {}
    same = [
        f"{name} is the same run as {first}"
        for name, t in tables.items()
        if (first := seen.setdefault(repr(t), name)) != name
    ]
    if same:
        raise UserError("\n".join(f"--grid: {line}" for line in same))
