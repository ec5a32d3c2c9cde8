"""Writes event files for TensorBoard."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from orwcfm_core.events import Run, numbers
from orwcfm_core.plugin import hookimpl
from PIL import Image
from torch.utils.tensorboard import SummaryWriter
from torch.utils.tensorboard.summary import hparams

from orwcfm_callback_tensorboard.plugin import Config

__all__ = ["TensorBoard"]


class TensorBoard:
    """Writes event files into `tensorboard/` of the run's folder; the step is the round.

    Args:
        config: Options.
    """

    def __init__(self, config: Config) -> None:
        self.writer: SummaryWriter | None = None
        self.round = 0
        self.next_grid = 0

    @hookimpl
    def orwcfm_on_run_start(self, run: Run, reference: Mapping[str, Any]) -> None:
        """Open the log, hiding what it has of rounds that are done again."""
        first_step = run.first_round + 1 if run.first_round else 0
        self.writer = SummaryWriter(str(run.path / "tensorboard"), purge_step=first_step)
        self.round, self.next_grid = run.first_round, first_step
        if first_step == 0:
            # SummaryWriter.add_hparams would make a second log of them.
            _, options, _ = hparams(run.options(), {})
            file_writer: Any = self.writer.file_writer  # torch types it as None
            file_writer.add_summary(options)
            self._scalars(self.writer, numbers(reference, "reference/"))
        self._grids(self.writer, run)

    @hookimpl
    def orwcfm_on_round_end(self, run: Run, metrics: Mapping[str, Any]) -> None:
        """Write the round's numbers."""
        if self.writer:
            self.round = metrics["round"]
            self._scalars(self.writer, numbers(metrics))
            self._grids(self.writer, run)

    @hookimpl
    def orwcfm_on_checkpoint(self, run: Run, checkpoint: Path) -> None:
        """Write the checkpoint's name, and all to the disk: a run resumed from here does not write it again."""
        if self.writer:
            self._grids(self.writer, run)
            self.writer.add_text("checkpoint", checkpoint.name, self.round)
            self.writer.flush()

    @hookimpl
    def orwcfm_on_run_end(self, run: Run, status: str, result: Mapping[str, Any]) -> None:
        """Write the result, and close the log."""
        if self.writer:
            self._grids(self.writer, run)
            self._scalars(self.writer, numbers(result, "final/"))
            self.writer.add_text("status", status, self.round)
            self.writer.close()
            self.writer = None

    def _scalars(self, writer: SummaryWriter, values: Mapping[str, int | float]) -> None:
        for name, value in values.items():
            writer.add_scalar(name, value, self.round)

    def _grids(self, writer: SummaryWriter, run: Run) -> None:
        """Write the grids that are new."""
        for number, path in run.grids(range(self.next_grid, self.round + 1)).items():
            with Image.open(path) as picture:
                pixels = np.asarray(picture)
            writer.add_image("samples", pixels, number, dataformats="HWC" if pixels.ndim == 3 else "HW")
            self.next_grid = number + 1
