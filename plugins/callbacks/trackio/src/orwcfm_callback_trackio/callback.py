"""Logs to Trackio."""

from __future__ import annotations

import contextlib
import io
import json
import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orwcfm_core.events import Run, numbers
from orwcfm_core.plugin import hookimpl

from orwcfm_callback_trackio.plugin import Config

if TYPE_CHECKING:
    from trackio.run import Run as Log

__all__ = ["Trackio"]


class Trackio:
    """Logs a run to Trackio's database, in the run's folder if nothing else is set; the step is the round.

    Args:
        config: Options.
    """

    def __init__(self, config: Config) -> None:
        self.config = config
        self.log: Log | None = None
        self.round = 0
        self.next_grid = 0
        self.last_step = -1

    @hookimpl
    def orwcfm_on_run_start(self, run: Run, reference: Mapping[str, Any]) -> None:
        """Start logging, or go on where the log ends."""
        _use_folder(Path(self.config.folder or os.environ.get("TRACKIO_DIR") or run.path / "trackio"))
        import trackio
        from trackio.sqlite_storage import SQLiteStorage

        with _quiet():
            self.log = trackio.init(
                self.config.project,
                name=run.path.resolve().name,
                config=run.options(),
                resume="allow" if run.first_round else "never",
            )
        last_step = SQLiteStorage.get_max_step_for_run(self.log.project, self.log.name, run_id=self.log.id)
        self.last_step = -1 if last_step is None else last_step
        self.round = run.first_round
        self._step(self.log, numbers(reference, "reference/"), 0)
        # Trackio writes twice a second: what a kill took from it is in the run's folder.
        for metrics in _done(run):
            self._step(self.log, numbers(metrics), metrics["round"])
        self._grids(self.log, run)

    @hookimpl
    def orwcfm_on_round_end(self, run: Run, metrics: Mapping[str, Any]) -> None:
        """Log the round's numbers."""
        if self.log:
            self.round = metrics["round"]
            self._step(self.log, numbers(metrics), self.round)
            self._grids(self.log, run)

    @hookimpl
    def orwcfm_on_run_end(self, run: Run, status: str, result: Mapping[str, Any]) -> None:
        """Log the result, with an alert if the run is not done."""
        if self.log:
            import trackio

            self._grids(self.log, run)
            if result:
                self.log.log(numbers(result, "final/"), step=self.round)
            with _quiet():
                if status != "done":
                    level = trackio.AlertLevel.WARN if status == "interrupted" else trackio.AlertLevel.ERROR
                    self.log.alert(f"Run {status}", level=level, step=self.round)
                trackio.finish()
            self.log = None

    def _grids(self, log: Log, run: Run) -> None:
        """Log the grids that are new."""
        import trackio

        for number, path in run.grids(range(self.next_grid, self.round + 1)).items():
            self._step(log, {"samples": trackio.Image(path)}, number)
            self.next_grid = number + 1

    def _step(self, log: Log, values: Mapping[str, Any], step: int) -> None:
        """Log values, unless they were logged before the run was resumed: it repeats some rounds."""
        if step > self.last_step:
            log.log(dict(values), step=step)


def _done(run: Run) -> list[dict[str, Any]]:
    """Metrics of the rounds that were done before."""
    file = run.path / "metrics.jsonl"
    lines = file.read_text().splitlines() if run.first_round and file.exists() else []
    return [json.loads(line) for line in lines]


def _use_folder(folder: Path) -> None:
    """Have Trackio keep its data there; it reads its environment variable once, when it is imported."""
    folder, before = folder.expanduser().resolve(), os.environ.get("TRACKIO_DIR")
    os.environ["TRACKIO_DIR"] = str(folder)
    try:
        from trackio.utils import TRACKIO_DIR
    finally:
        del os.environ["TRACKIO_DIR"]
        if before is not None:
            os.environ["TRACKIO_DIR"] = before
    if TRACKIO_DIR.resolve() != folder:
        text = f"trackio goes on in {TRACKIO_DIR}: a process logs to one folder, not to {folder} as well"
        warnings.warn(text, stacklevel=2)


def _quiet() -> contextlib.redirect_stdout[io.StringIO]:
    """Keep Trackio's greetings off the screen; its warnings do not come this way."""
    return contextlib.redirect_stdout(io.StringIO())
