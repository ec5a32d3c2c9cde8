"""A run of a sweep, in a process of its own: `orwcfm` that saves and ends when the sweep's process is gone."""

from __future__ import annotations

import os
import signal
import sys
import threading

__all__ = ["main"]


def main() -> None:
    """Do what `orwcfm` does with the same arguments; standard input is held open by the process that started this."""
    threading.Thread(target=_interrupt_at_end, daemon=True).start()
    from orwcfm_cli.main import main as orwcfm

    orwcfm()


def _interrupt_at_end() -> None:
    while os.read(sys.stdin.fileno(), 1024):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    main()
