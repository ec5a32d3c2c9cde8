"""Logs to Weights & Biases."""

from __future__ import annotations

import os
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import wandb
from orwcfm_core.events import Run, numbers
from orwcfm_core.plugin import hookimpl

from orwcfm_callback_wandb.plugin import Config

__all__ = ["Wandb"]

_EXIT_CODES = {"done": 0, "interrupted": 255}
"""What wandb shows as finished and as killed; all others are failed."""


class Wandb:
    """Logs a run into `wandb/` of its folder, and to the service if `mode` is online; the step is the round.

    Args:
        config: Options.
    """

    def __init__(self, config: Config) -> None:
        self.config = config
        self.log: wandb.Run | None = None
        self.round = 0
        self.next_grid = 0

    @hookimpl
    def orwcfm_on_run_start(self, run: Run, reference: Mapping[str, Any]) -> None:
        """Start logging, or go on under the id that the run's folder has."""
        online = self.config.mode == "online"
        if not online:
            # Else wandb reports on itself over the network, even offline.
            os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
        self.log = wandb.init(
            project=self.config.project,
            name=run.path.resolve().name,
            id=_run_id(run.path / "wandb" / "id"),
            resume="allow",
            mode=self.config.mode,
            dir=str(run.path),
            config={section: dict(options) for section, options in run.config.items()},
            reinit="create_new",
            # What is logged in the last tenth of a second before a kill is lost; by default it is 15 seconds.
            settings=wandb.Settings(console="off", silent=not online, x_transaction_log_flush_interval=0.1),
        )
        self.log.summary.update(numbers(reference, "reference/"))
        self.round = run.first_round
        self.next_grid = run.first_round + 1 if run.first_round else 0
        self._grids(self.log, run)

    @hookimpl
    def orwcfm_on_round_end(self, run: Run, metrics: Mapping[str, Any]) -> None:
        """Log the round's numbers."""
        if self.log:
            # Pictures of the round before belong to its step, which the next one closes.
            self._grids(self.log, run)
            self.round = metrics["round"]
            self._step(self.log, numbers(metrics), self.round)

    @hookimpl
    def orwcfm_on_checkpoint(self, run: Run, checkpoint: Path) -> None:
        """Log the checkpoint's name, and close the step: a run resumed from here does not log it again."""
        if self.log:
            self._grids(self.log, run)
            self.log.summary["checkpoint"] = checkpoint.name
            self._step(self.log, {}, self.round, commit=True)

    @hookimpl
    def orwcfm_on_run_end(self, run: Run, status: str, result: Mapping[str, Any]) -> None:
        """Log the result and how the run ended."""
        if self.log:
            self._grids(self.log, run)
            self.log.summary.update(numbers(result, "final/") | {"status": status})
            self.log.finish(exit_code=_EXIT_CODES.get(status, 1))
            self.log = None

    def _grids(self, log: wandb.Run, run: Run) -> None:
        """Log the grids that are new."""
        for number, path in run.grids(range(self.next_grid, self.round + 1)).items():
            self._step(log, {"samples": wandb.Image(str(path))}, number)
            self.next_grid = number + 1

    def _step(self, log: wandb.Run, values: Mapping[str, Any], step: int, commit: bool | None = None) -> None:
        """Log values, unless the service has them already: steps only ever go up, and a resumed run repeats some."""
        if step >= log.step:
            log.log(dict(values), step=step, commit=commit)


def _run_id(file: Path) -> str:
    """The id in this file, which is made if need be."""
    if not file.exists():
        file.parent.mkdir(exist_ok=True)
        file.write_text(secrets.token_hex(4))
    return file.read_text()
