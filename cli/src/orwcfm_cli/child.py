"""Code in a process of its own, for it may crash, hang or end the process that it runs in. No torch in here."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

__all__ = ["ending", "report_from", "tell"]


def report_from(
    module: str, args: Sequence[str], seconds: float, env: Mapping[str, str] | None = None
) -> tuple[list[Any], str | None]:
    """Run a module's `main` in a process of its own.

    Args:
        module: Module, which reports with `tell`.
        args: Its arguments.
        seconds: Time limit.
        env: Environment variables to set.

    Returns:
        What it reported, and in words how the process ended, None if it ended well.
    """
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "report"
        file.touch()
        # -P: nothing is imported from the working directory. What the child prints is not its report.
        command = [sys.executable, "-P", "-m", module, str(file), *args]
        environment = {**os.environ, **(env or {})}
        try:
            # Not pipes: what the child started might hold them open after its end.
            done = subprocess.run(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env=environment,
                timeout=seconds,
            )
            how = ending(done.returncode)
        except subprocess.TimeoutExpired:
            how = f"was not done after {seconds:g} s"
        return [json.loads(row) for row in file.read_text().splitlines()], how


def tell(report: Any) -> None:
    """In the child: report something; what was told before a crash is not lost."""
    with Path(sys.argv[1]).open("a") as file:
        file.write(json.dumps(report) + "\n")


def ending(code: int) -> str | None:
    """How a process ended, in words, by its return code; None if well."""
    if code >= 0:
        return f"ended the process with exit code {code}" if code else None
    try:
        return f"crashed with {signal.Signals(-code).name}"
    except ValueError:
        return f"crashed with signal {-code}"
