"""A run in this process: its rounds, what is saved of them, and every way in which it can end."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from orwcfm_core.checkpoint import (
    best_checkpoint,
    best_round,
    forget_after,
    load_checkpoint,
    round_of,
    save_checkpoint,
)
from orwcfm_core.config import RunConfig
from orwcfm_core.errors import RunError, UserError
from orwcfm_core.evaluation import evaluate
from orwcfm_core.events import CallbackError, Callbacks, Run
from orwcfm_core.trainer import SkippedTooOften, State, Trainer
from safetensors import SafetensorError
from safetensors.torch import save_file

from orwcfm_cli.culprit import guarded
from orwcfm_cli.display import Display
from orwcfm_cli.folder import RunFolder
from orwcfm_cli.grids import save_round
from orwcfm_cli.interrupt import Signals
from orwcfm_cli.report import write_report
from orwcfm_cli.watch import Watch, quality

__all__ = ["Session"]


class Session:
    """A run from the first round that is left to its end.

    Args:
        trainer: The training method.
        state: The run, after the rounds that are done.
        folder: Its folder, which holds what the rounds that are done left there.
        config: Its configuration.
        callbacks: Told of its events.
        display: Shows it.
    """

    def __init__(
        self,
        trainer: Trainer,
        state: State,
        folder: RunFolder,
        config: RunConfig,
        callbacks: Callbacks,
        display: Display,
    ) -> None:
        self.trainer = trainer
        self.state = state
        self.folder = folder
        self.config = config
        self.callbacks = callbacks
        self.display = display
        self.run = Run(folder.path, config.tables(), state.round)
        self.reference = folder.read_json("reference.json")
        self.rounds = folder.read_metrics()
        self.watch = Watch(self.reference, self.rounds, config.weighting.name)
        self.ended = False

    def go_on(self) -> dict[str, Any]:
        """Do the rounds that are left, then measure and report.

        Returns:
            The run's summary.

        Raises:
            RunError: The run failed.
            SystemExit: A signal ended it; the code is 128 plus the signal's number.
        """
        with Signals(self._patience) as signals:
            try:
                return self._go_on(signals)
            except KeyboardInterrupt:
                self.display.note(f"stopped at once; go on from what is saved: orwcfm resume {self.folder.path}")
                with suppress(CallbackError):
                    self._end("interrupted", {})
                raise SystemExit(128 + signals.caught) from None

    def _go_on(self, signals: Signals) -> dict[str, Any]:
        try:
            with guarded(self.config):
                self.callbacks.run_start(self.run, self.reference)
                self._rounds(signals)
                measured = {} if signals.caught else evaluate(self.state, self.config.train.eval_samples)
            if signals.caught:
                self._keep("interrupted")
            else:
                result = {"round": self.state.round, **measured}
                self.folder.write_json("final.json", result)
                report = write_report(self.folder.path)
        except (RunError, UserError, OSError) as e:
            self._rescue(e)
            with suppress(CallbackError):
                self._end("failed", {})
            raise
        if signals.caught:
            self._end("interrupted", {})
            raise SystemExit(128 + signals.caught)
        self._end("done", result)
        return {**measured, "run": str(self.folder.path), "report": str(report)}

    def _end(self, status: str, result: dict[str, Any]) -> None:
        """Tell the callbacks, once, how the run ended."""
        if not self.ended:
            self.ended = True
            self.callbacks.run_end(self.run, status, result)

    def _rounds(self, signals: Signals) -> None:
        """Do the rounds that are left, until a signal comes."""
        with signals.waiting():
            while self.state.round < self.config.train.rounds and not signals.caught and not self._past_the_best():
                self._round()

    def _round(self) -> None:
        train = self.config.train
        metrics = self.trainer.round(self.state)
        self.folder.append_metrics(metrics)
        self.rounds.append(metrics)
        self.display.round(metrics)
        for warning in self.watch.look():
            self.display.note(warning)
        last = self.state.round == train.rounds
        if self.state.round % train.grid_every == 0 or last:
            save_round(self.state, self.folder, self.config)
        self.callbacks.round_end(self.run, metrics)
        if self.state.round % train.checkpoint_every == 0 or last:
            checkpoint = self._save(quality(self.rounds))
            self.callbacks.checkpoint(self.run, checkpoint)

    def _save(self, quality: float | None) -> Path:
        self.folder.flush_metrics()
        return save_checkpoint(self.state, self.folder.checkpoints, self.config.train.keep, quality)

    def _past_the_best(self) -> bool:
        """Whether the judge has seen nothing better for too long; if so, the run goes back to its best checkpoint."""
        folder, patience, now = self.folder.checkpoints, self.config.train.early_stop, self.state.round
        # Between checkpoints nobody knows whether something was better.
        if not patience or now % self.config.train.checkpoint_every:
            return False
        best = best_round(folder)
        if best is None or now - best < patience:
            return False
        # Another one, or None, where that of the best round turns out to be damaged.
        found = best_checkpoint(folder)
        if found is None or now - (best := round_of(found)) < patience:
            return False
        load_checkpoint(self.state, found)
        forget_after(folder, found)
        save_round(self.state, self.folder, self.config)
        self.display.note(f"stopped after round {now}: nothing was better than round {best}, which is the result")
        return True

    def _keep(self, why: str) -> None:
        """Save where the run stands, and say how to go on."""
        # Of no quality where none was due: a run that was never interrupted would not have it to go back to.
        done = self.state.round
        self._save(quality(self.rounds) if done % self.config.train.checkpoint_every == 0 else None)
        write_report(self.folder.path)
        self.display.note(f"{why} and saved after round {done}; go on with: orwcfm resume {self.folder.path}")

    def _rescue(self, error: Exception) -> None:
        """Save what a failure would otherwise lose."""
        if isinstance(error, CallbackError):
            # The run itself is sound.
            try:
                self._keep("stopped by a callback")
            except (RunError, UserError, OSError) as e:
                self.display.note(f"stopped by a callback, and could not be saved: {e}")
            else:
                self.display.note(f"or, without callbacks: orwcfm resume {self.folder.path} --callback none")
        if isinstance(error, SkippedTooOften):
            file = self.folder.path / "failed" / f"round_{self.state.round + 1:04d}.safetensors"
            try:
                file.parent.mkdir(exist_ok=True)
                # Copies: safetensors refuses tensors that share memory.
                save_file(
                    {name: t.cpu().clone(memory_format=torch.contiguous_format) for name, t in error.inputs.items()},
                    file,
                )
            except (OSError, SafetensorError) as e:
                self.display.note(f"what the last update was to work on could not be written to {file}: {e}")
            else:
                self.display.note(f"what the last update was to work on is in {file}")

    def _patience(self) -> None:
        self.display.note(f"round {self.state.round + 1} is finished and saved first; again: at once")
