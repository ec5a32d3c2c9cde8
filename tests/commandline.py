"""What the tests of the command line share."""

from __future__ import annotations

import io
import json
import sys
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from orwcfm_cli.main import main
from orwcfm_core.checkpoint import newest_checkpoint
from safetensors.torch import load_file

ORWCFM = str(Path(sys.executable).with_name("orwcfm"))
"""The script, as it is installed."""

SMALL = ("--rounds", "2", "--set", "train.samples=16", "--set", "train.updates=1", "--set", "sampler.steps=2")
"""Options that make a run end in seconds."""

POINTS = ("run", "--backbone", "gmm", "--set", "train.samples=32", "--set", "train.eval_samples=64")
"""A run of hundredths of a second per round; its reward is still to be named."""


@dataclass
class Done:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def errors(self) -> list[str]:
        """The lines in which it says what went wrong."""
        return [line for line in self.err.splitlines() if line.lower().startswith("error")]


def here(*args: object, code: int | None = None) -> Done:
    """Call the command line in this process and folder; whatever escapes it, a user would see as a traceback.

    Args:
        args: What follows `orwcfm`.
        code: The exit code that is expected; None accepts any.
    """
    out, err, ended = io.StringIO(), io.StringIO(), 0
    with patch.object(sys, "argv", ["orwcfm", *map(str, args)]), redirect_stdout(out), redirect_stderr(err):
        try:
            main()
        except SystemExit as e:
            ended = e.code if isinstance(e.code, int) else int(e.code is not None)
    done = Done(ended, out.getvalue(), err.getvalue())
    assert code in (None, ended), f"exit code {ended}\n{done.out}\n{done.err}"
    return done


def rounds(run: Path) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl, without times."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in row.items() if k not in ("seconds", "samples_per_second")} for row in lines]


def tensors(run: Path) -> dict[str, torch.Tensor]:
    """All of the newest intact checkpoint."""
    newest = newest_checkpoint(run / "checkpoints")
    return {f"{p.name}:{name}": t for p in newest.glob("*.safetensors") for name, t in load_file(p).items()}


def same(a: Path, b: Path) -> bool:
    """Whether two runs ended with the same bits."""
    x, y = tensors(a), tensors(b)
    return rounds(a) == rounds(b) and x.keys() == y.keys() and all(torch.equal(x[name], y[name]) for name in x)
