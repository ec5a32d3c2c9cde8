"""Lets work end in good order when it is interrupted."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, Self

__all__ = ["Signals"]


class Signals:
    """SIGINT (Ctrl-C) and SIGTERM: while work is `waiting`, the first lets it end; all others stop at once.

    Args:
        say: Called when that is waited for.
    """

    def __init__(self, say: Callable[[], None]) -> None:
        self.say = say
        self.caught = 0
        self.patient = False
        self.before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        for number in (signal.SIGINT, signal.SIGTERM):
            # What started this process may have chosen that it ignores them.
            if signal.getsignal(number) is not signal.SIG_IGN:
                self.before[number] = signal.signal(number, self._catch)
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Let the first one wait for what is done meanwhile, which looks at `caught` from time to time."""
        self.patient = True
        try:
            yield
        finally:
            self.patient = False

    def _catch(self, number: int, frame: FrameType | None) -> None:
        first = not self.caught
        self.caught = self.caught or number
        if not (first and self.patient):
            raise KeyboardInterrupt
        self.say()
