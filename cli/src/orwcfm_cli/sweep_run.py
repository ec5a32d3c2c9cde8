"""Carries a sweep from its grid to its report: starts its runs, waits for them, and says how they stand."""

from __future__ import annotations

import os
import shlex
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from orwcfm_core.config import RunConfig
from orwcfm_core.errors import UserError

from orwcfm_cli.atomic import replace_file
from orwcfm_cli.display import Display
from orwcfm_cli.interrupt import Signals
from orwcfm_cli.lock import lock
from orwcfm_cli.options import Tables, flat, to_toml
from orwcfm_cli.sweep_folder import Plan, SweepFolder, is_sweep, resolve_all
from orwcfm_cli.sweep_grid import Combination, Grid
from orwcfm_cli.sweep_pool import THREADS, Pool, error_in
from orwcfm_cli.sweep_report import write_sweep_report
from orwcfm_cli.sweep_results import Row, read_rows, write_results

__all__ = ["go_on", "start"]

POLL = 0.1
"""Seconds between looks at the processes."""
PATIENCE = 60.0
"""Seconds to wait for a process that an earlier call left behind."""

Runs = Mapping[str, tuple[Combination, RunConfig]]


def start(path: Path, base: Tables, grid: Grid, processes: int) -> dict[str, Any]:
    """Do a sweep, or go on with it, or add runs to it.

    Args:
        path: Its folder.
        base: Options that all runs share.
        grid: Options that differ.
        processes: Runs at a time.

    Returns:
        Its summary.

    Raises:
        UserError: Something is wrong with any of the runs, or the sweep in this folder has another base.
    """
    folder = SweepFolder(path)
    plan = Plan(base, grid, _threads(processes))
    if is_sweep(path):
        before = folder.read()
        plan = Plan(before.base, before.grid.grown(grid), before.threads)
        _same_base(before, base, grid)
    elif path.exists() and (not path.is_dir() or any(inner.name != ".lock" for inner in path.iterdir())):
        raise UserError(f"--out {path} exists already, and is not a sweep; choose another")
    runs = resolve_all(plan)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as e:
        raise UserError(f"cannot make sweep folder {path}: {e.strerror}") from e
    return _Sweep(folder, plan, runs, processes).do()


def go_on(path: Path, processes: int) -> dict[str, Any]:
    """Go on with a sweep as it is; see `start`."""
    folder = SweepFolder(path)
    plan = folder.read()
    return _Sweep(folder, plan, resolve_all(plan), processes).do()


class _Sweep:
    """A sweep that is under way.

    Args:
        folder: Its folder.
        plan: What it does.
        runs: Its runs, checked.
        processes: Runs at a time.
    """

    def __init__(self, folder: SweepFolder, plan: Plan, runs: Runs, processes: int) -> None:
        self.folder = folder
        self.plan = plan
        self.runs = runs
        self.errors: dict[str, str] = {}
        self.pool = Pool(processes, plan.threads)
        self.rounds = {name: config.train.rounds for name, (_, config) in runs.items()}
        self.waiting: list[str] = []
        self.ended = 0
        self.done: dict[str, int] = {}
        self.display = Display(sum(self.rounds.values()))

    def do(self) -> dict[str, Any]:
        """Do what is left.

        Raises:
            SystemExit: A signal ended it, after its runs have saved; the code is 128 plus the signal's number.
        """
        with lock(self.folder.path, "sweep"), self.display:
            self.folder.write(self.plan)
            for name, (_, config) in self.runs.items():
                replace_file(self.folder.config(name), to_toml(config.tables()).encode())
            self.waiting = [name for name in self.runs if self.folder.status(name) != "done"]
            # After a kill, metrics may be ahead of the checkpoint that a run goes on from; the bar sorts itself out.
            self.done = {n: self.folder.rounds_done(n) if n in self.waiting else k for n, k in self.rounds.items()}
            self._announce()
            with Signals(self._patience) as signals, self.pool, signals.waiting():
                self._work(signals)
            rows = self._results()
            report = write_sweep_report(self.folder, self.plan.grid, rows)
            if signals.caught:
                command = shlex.join(["orwcfm", "sweep", "--resume", str(self.folder.path)])
                self.display.note(f"interrupted and saved; go on with: {command}")
                raise SystemExit(128 + signals.caught)
        return {
            "runs": len(rows),
            "done": sum(row.status == "done" for row in rows),
            "failed": self.errors,
            "sweep": str(self.folder.path),
            "results": str(self.folder.path / "results.csv"),
            "report": str(report),
        }

    def _announce(self) -> None:
        total = len(self.runs)
        self.ended = total - len(self.waiting)
        done = f", {self.ended} of them done" if self.ended else ""
        threads = sorted({config.train.threads or self.plan.threads for _, config in self.runs.values()})
        each = " or ".join(map(str, threads)) + (" thread each" if threads == [1] else " threads each")
        self.display.note(f"sweep {self.folder.path}: {total} runs{done}; {self.pool.size} at a time, {each}")

    def _patience(self) -> None:
        self.display.note(f"interrupted: {len(self.pool.children)} runs end their rounds and save; again: at once")

    def _work(self, signals: Signals) -> None:
        """Do all that is waiting, until a signal comes."""
        told = False
        began = time.monotonic()
        try:
            while self.pool.children or (self.waiting and not signals.caught):
                if signals.caught and not told:
                    told = True
                    self.pool.interrupt()
                if not signals.caught:
                    self._fill(time.monotonic() - began)
                for name, code in self.pool.ended().items():
                    self._note_end(name, code, signals.caught != 0)
                self._show()
                time.sleep(POLL)
        except KeyboardInterrupt:
            self.display.note("interrupted again: the runs are ended as they are")

    def _fill(self, seconds: float) -> None:
        """Start what can be started."""
        for name in list(self.waiting):
            if self.pool.full:
                return
            if self.folder.in_use(name):
                if seconds > PATIENCE:
                    self.waiting.remove(name)
                    self.errors[name] = "another process is still at work on it"
                continue
            self.waiting.remove(name)
            if self.folder.status(name) == "interrupted":
                args = ["resume", str(self.folder.run(name))]
            else:
                self.folder.clear(name)
                args = ["run", "--config", str(self.folder.config(name)), "--out", str(self.folder.run(name))]
            self.pool.start(name, args, self.folder.log(name))

    def _note_end(self, name: str, code: int, interrupted: bool) -> None:
        """Take note of a run that ended."""
        if self.folder.status(name) != "done":
            if interrupted:
                return
            self.errors[name] = error_in(self.folder.log(name), code)
        rows = self._results()
        row = next(row for row in rows if row.name == name)
        self.ended += 1
        self.display.note(f"{self.ended}/{len(rows)}  {name}  {_outcome(row)}")

    def _results(self) -> list[Row]:
        rows = read_rows(self.folder, self.runs, self.errors)
        write_results(self.folder, self.plan.grid, rows)
        return rows

    def _show(self) -> None:
        self.done |= {name: self.folder.rounds_done(name) for name in self.pool.children}
        now = ", ".join(f"{name} {self.done[name]}/{self.rounds[name]}" for name in self.pool.children)
        self.display.step(sum(self.done.values()), now)


def _outcome(row: Row) -> str:
    if row.status != "done" or row.record is None:
        return f"failed: {row.error}"
    keys = {"reward": "reward_mean", "held-out": row.record.heldout, "diversity": "diversity"}
    known = {name: row.record.end(key) for name, key in keys.items() if key}
    numbers = [f"{name} {value:.3f}" for name, value in known.items() if value is not None]
    return "  ".join([f"done in {row.seconds or 0:.0f} s", *numbers])


def _threads(processes: int) -> int:
    """Threads of each process: what the user says, else the processors divided among them."""
    for name in THREADS:
        if os.environ.get(name, "").isdecimal():
            return max(1, int(os.environ[name]))
    processors = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, processors // processes)


def _same_base(before: Plan, base: Tables, grid: Grid) -> None:
    """See that what all runs share is what it was.

    Raises:
        UserError: It is not; names the options.
    """
    # Each component that the grid names has options of its own.
    few = Grid({o: v if o.endswith(".name") else v[:1] for o, v in before.grid.axes.items()})
    then, now = (resolve_all(Plan(shared, few, 1)) for shared in (before.base, base))
    changed = []
    for name in then:
        old, new = (flat(runs[name][1].tables()) for runs in (then, now))
        changed += [
            f"{o}: was {old.get(o, 'unset')}, is {new.get(o, 'unset')}; a sweep's base cannot change, use another --out"
            for o in {**old, **new}
            if old.get(o) != new.get(o)
        ]
    if changed:
        raise UserError("\n".join(dict.fromkeys(changed)))
