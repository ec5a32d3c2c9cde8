"""A run in this process: its rounds, what is saved of them, and every way in which it can end."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any

from orwcfm_core.checkpoint import best_checkpoint, forget_after, load_checkpoint, save_checkpoint
from orwcfm_core.config import RunConfig
from orwcfm_core.errors import RunError, UserError
from orwcfm_core.evaluation import evaluate
from orwcfm_core.events import CallbackError, Callbacks, Run
from orwcfm_core.registry import unforeseen
from orwcfm_core.trainer import SkippedTooOften, State, Trainer
from safetensors.torch import save_file

from orwcfm_cli.culprit import culprit
from orwcfm_cli.display import Display
from orwcfm_cli.folder import RunFolder
from orwcfm_cli.grids import save_round
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
        self.watch = Watch(self.reference, self.rounds)

    def go_on(self) -> dict[str, Any]:
        """Do the rounds that are left, then measure and report.

        Returns:
            The run's summary.

        Raises:
            RunError: The run failed.
            SystemExit: A signal ended it, after saving; the code is 128 plus the signal's number.
        """
        try:
            with unforeseen(lambda e: culprit(e, self.config)):
                self.callbacks.run_start(self.run, self.reference)
                stopped_by = self._rounds()
                result = {} if stopped_by else evaluate(self.state, self.config.train.eval_samples)
        except (RunError, UserError, OSError) as e:
            self._rescue(e)
            with suppress(CallbackError):
                self.callbacks.run_end(self.run, "failed", {})
            raise
        if stopped_by:
            self._keep("interrupted")
            self.callbacks.run_end(self.run, "interrupted", {})
            raise SystemExit(128 + stopped_by)
        self.folder.write_json("final.json", {"round": self.state.round, **result})
        report = write_report(self.folder.path)
        self.callbacks.run_end(self.run, "done", result)
        return {**result, "run": str(self.folder.path), "report": str(report)}

    def _rounds(self) -> int:
        """Do the rounds that are left; returns the signal that ended them, or 0."""
        with _interruptible() as caught:
            while self.state.round < self.config.train.rounds and not self._past_the_best():
                if caught():
                    return caught()
                self._round()
        return 0

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
            checkpoint = self._save()
            self.callbacks.checkpoint(self.run, checkpoint)

    def _save(self) -> Any:
        return save_checkpoint(self.state, self.folder.checkpoints, self.config.train.keep, quality(self.rounds))

    def _past_the_best(self) -> bool:
        """Whether the judge has seen nothing better for too long; if so, the run goes back to its best checkpoint."""
        best = best_checkpoint(self.folder.checkpoints) if self.config.train.early_stop else None
        if best is None:
            return False
        best_round, now = int(best.name.removeprefix("round_")), self.state.round
        if now - best_round < self.config.train.early_stop:
            return False
        load_checkpoint(self.state, best)
        forget_after(self.folder.checkpoints, best)
        self.display.note(f"stopped after round {now}: nothing was better than round {best_round}, which is the result")
        return True

    def _keep(self, why: str) -> None:
        """Save where the run stands, and say how to go on."""
        self._save()
        write_report(self.folder.path)
        done = self.state.round
        self.display.note(f"{why} and saved after round {done}; go on with: orwcfm resume {self.folder.path}")

    def _rescue(self, error: Exception) -> None:
        """Save what a failure would otherwise lose."""
        if isinstance(error, CallbackError):
            # The run itself is sound.
            self._keep("stopped by a callback")
        if isinstance(error, SkippedTooOften):
            file = self.folder.path / "failed" / f"round_{self.state.round + 1:04d}.safetensors"
            file.parent.mkdir(exist_ok=True)
            save_file({name: tensor.contiguous().cpu() for name, tensor in error.inputs.items()}, file)
            self.display.note(f"what the last update was to work on is in {file}")


@contextmanager
def _interruptible() -> Iterator[Callable[[], int]]:
    """Let the first Ctrl-C (or SIGTERM) end the round and save; a second one ends at once."""
    caught: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        if caught:
            raise KeyboardInterrupt
        caught.append(number)

    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: caught[0] if caught else 0
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
