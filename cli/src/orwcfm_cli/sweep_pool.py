"""Runs of a sweep as processes, several at a time."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Self

from orwcfm_cli.child import ending

__all__ = ["Pool", "error_in"]

THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


class Pool:
    """Processes of `orwcfm`, by name. Whatever is left is ended when the pool is closed.

    Each is the leader of a session of its own, so that Ctrl-C reaches this process alone, which passes it on once.

    Args:
        size: Processes at a time.
        threads: Of each of them.
    """

    def __init__(self, size: int, threads: int) -> None:
        self.size = size
        self.environment = {**os.environ, **{name: str(threads) for name in THREADS}}
        self.children: dict[str, tuple[subprocess.Popen[bytes], IO[bytes]]] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for child, log in self.children.values():
            child.kill()
            child.wait()
            log.close()

    @property
    def full(self) -> bool:
        """Whether another process has to wait."""
        return len(self.children) >= self.size

    def start(self, name: str, args: Sequence[str], log: Path) -> None:
        """Start `orwcfm` with some arguments; what it says goes to a file."""
        log.parent.mkdir(exist_ok=True)
        file = log.open("wb")
        # -P: nothing is imported from the working directory. The pipe ends when this process does.
        command = [sys.executable, "-P", "-m", "orwcfm_cli.sweep_child", *args]
        child = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=file,
            stderr=subprocess.STDOUT,
            env=self.environment,
            start_new_session=True,
        )
        self.children[name] = (child, file)

    def ended(self) -> dict[str, int]:
        """Return codes of the processes that ended since the last call."""
        codes = {name: code for name, (child, _) in self.children.items() if (code := child.poll()) is not None}
        for name in codes:
            child, log = self.children.pop(name)
            log.close()
            if child.stdin:
                child.stdin.close()
        return codes

    def interrupt(self) -> None:
        """Let all of them save and end."""
        for child, _ in self.children.values():
            # Not SIGINT: what a script starts in the background ignores that, and so do its children.
            child.send_signal(signal.SIGTERM)


def error_in(log: Path, code: int) -> str:
    """Why a process failed: what it said last, else how it ended."""
    lines = log.read_text(errors="replace").splitlines() if log.is_file() else []
    errors = [line.removeprefix("error: ") for line in lines if line.lower().startswith("error: ")]
    last = errors or [line for line in lines if line.strip()][-1:]
    how = ending(code) or "ended without a result"
    return "; ".join(last) if errors else f"{how}: {last[0]}" if last else how
