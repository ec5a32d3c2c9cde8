"""Shows how a command gets on: a live bar on a terminal, plain lines elsewhere; always on stderr."""

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
    """Progress, and what the core logs meanwhile.

    Args:
        total: Steps in all: a run's rounds, for instance.
    """

    def __init__(self, total: int) -> None:
        self.console = Console(stderr=True, highlight=False)
        self.total = total
        self.progress = _TwoLines(
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("left"),
            console=self.console,
            disable=not self.console.is_terminal,
        )
        self.notes = _Notes(self)
        self.task = self.progress.add_task("", total=total)

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

    def starts_after(self, done: int) -> None:
        """Show that some steps were done before."""
        self.progress.update(self.task, completed=done)

    def round(self, metrics: dict[str, Any]) -> None:
        """Show a round's metrics."""
        numbers, left = _numbers(metrics), (self.total - metrics["round"]) * metrics["seconds"]
        line = f"round {metrics['round']}/{self.total}  {numbers}  {left:.0f} s left"
        self.step(metrics["round"], numbers, line)

    def step(self, done: int, now: str, line: str = "") -> None:
        """Show how far it has come.

        Args:
            done: Steps done.
            now: What is said below the bar, on a terminal.
            line: What is said elsewhere; empty says nothing.
        """
        self.progress.numbers = now
        self.progress.update(self.task, completed=done)
        if line and not self.console.is_terminal:
            self.note(line)


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
