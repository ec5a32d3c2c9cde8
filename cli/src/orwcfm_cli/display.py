"""Shows a run while it goes on: a live bar on a terminal, plain lines elsewhere; always on stderr."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from types import TracebackType
from typing import Any, Self

from rich.console import Console, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text

__all__ = ["Display"]

_LOG = logging.getLogger("orwcfm_core")


class _TwoLines(Progress):
    """A bar, and the newest numbers below it, which would not fit beside it on 80 columns."""

    numbers = ""

    def get_renderables(self) -> Iterable[RenderableType]:
        yield self.make_tasks_table(self.tasks)
        yield Text(self.numbers)


class _Notes(logging.Handler):
    """Shows what the core logs."""

    def __init__(self, display: Display) -> None:
        super().__init__(logging.WARNING)
        self.display = display

    def emit(self, record: logging.LogRecord) -> None:
        self.display.note(f"warning: {record.getMessage()}")


class Display:
    """A run's progress, and what the core logs meanwhile.

    Args:
        rounds: Rounds of the whole run.
    """

    def __init__(self, rounds: int) -> None:
        self.console = Console(stderr=True, highlight=False)
        self.rounds = rounds
        self.progress = _TwoLines(
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("left"),
            console=self.console,
            disable=not self.console.is_terminal,
        )
        self.notes = _Notes(self)
        self.task = self.progress.add_task("", total=rounds)

    def __enter__(self) -> Self:
        _LOG.addHandler(self.notes)
        self.progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.progress.stop()
        _LOG.removeHandler(self.notes)

    def note(self, text: str) -> None:
        """Say something once."""
        self.console.print(text, soft_wrap=True, markup=False)

    def starts_after(self, rounds: int) -> None:
        """Show that rounds were done before."""
        self.progress.update(self.task, completed=rounds)

    def round(self, metrics: dict[str, Any]) -> None:
        """Show a round's metrics."""
        self.progress.numbers = _numbers(metrics)
        self.progress.update(self.task, completed=metrics["round"])
        if not self.console.is_terminal:
            left = (self.rounds - metrics["round"]) * metrics["seconds"]
            self.note(f"round {metrics['round']}/{self.rounds}  {self.progress.numbers}  {left:.0f} s left")


def _numbers(metrics: dict[str, Any]) -> str:
    heldout = [value for key, value in metrics.items() if key.startswith("heldout_")]
    shown = {
        "reward": metrics["reward_mean"],
        **({"held-out": heldout[0]} if heldout else {}),
        "divergence": metrics["velocity_divergence"],
        "diversity": metrics["diversity"],
        "ESS": metrics["ess"],
    }
    return "  ".join(f"{name} {'none' if value is None else f'{value:.3f}'}" for name, value in shown.items())
